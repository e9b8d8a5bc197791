"""One set in every form: the same figures, in one process and in several, and nothing half-written."""

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset

from clipkit.errors import ClipkitError
from clipkit.evaluate.config import EvaluateConfig
from clipkit.evaluate.ranks import ALONE, Ranks
from clipkit.evaluate.run import evaluate, zero_shot_sets
from clipkit.evaluate.sets import evaluate_sets
from clipkit.evaluate.zero_shot import ZeroShotResult
from clipkit.model.checkpoint import Checkpoint, save_checkpoint
from clipkit.model.clip import build
from clipkit.model.config import named_config
from tests.conftest import picture
from tests.evaluate.packed import tarred, unpacked
from tests.evaluate.simulated import in_each_rank

MICRO = named_config("ViT-Micro/16@32px")
FILES = {
    f"{name}/{n}.jpg": picture(10 * i + n) for i, name in enumerate(("cat", "dog", "eel")) for n in range(5)
}


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    (tmp_path / "classes.csv").write_text("folder,names\ncat,cat|kitten\neel,eel\ndog,dog\n")
    return tmp_path / "classes.csv"


def shards(path: Path) -> Path:
    path.mkdir()
    with webdataset.TarWriter(str(path / "0.tar")) as tar:
        for name, content in FILES.items():
            tar.write({"__key__": name[:-4], "jpg": content, "txt": name[:3]})
    return path


def test_every_form_gives_the_same_figures_in_one_process_and_in_several(
    tmp_path: Path, classes: Path
) -> None:
    torch.set_num_threads(1)
    (tmp_path / "pets.tar").write_bytes(tarred(FILES))
    (tmp_path / "pets.tar.gz").write_bytes(gzip.compress(tarred(FILES)))
    folder = unpacked(tmp_path / "in" / "pets", FILES)
    model = build(MICRO, seed=0)

    def measured(root: Path, ranks: Ranks = ALONE, workers: int = 0) -> ZeroShotResult:
        sets = zero_shot_sets(EvaluateConfig(folder=root, classes=classes))
        ((_, result),) = evaluate_sets(model, sets, batch_size=4, workers=workers, ranks=ranks)
        return result

    first = measured(folder)
    for root in (tmp_path / "pets.tar", tmp_path / "pets.tar.gz"):
        assert measured(root) == measured(root, workers=1) == first
        assert in_each_rank(3, lambda ranks, root=root: measured(root, ranks)) == [first] * 3  # type: ignore[misc]
    of_shards = measured(shards(tmp_path / "pets"))
    same: dict[str, Any] = {
        "files_sha256": "",
        "class_scores": (),
        "mean_per_class_recall": 0.0,
    }  # in another order
    assert replace(of_shards, **same) == replace(first, **same)
    assert sorted(of_shards.class_scores, key=str) == sorted(first.class_scores, key=str)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


SPOILED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "cut off": ("pets.tar", lambda: cut(tarred(FILES)), "was it cut off"),
    "cut off gzip": ("pets.tar.gz", lambda: cut(gzip.compress(tarred(FILES))), "cut off"),
    "climbing": ("pets.tar", lambda: tarred(FILES | {"../dog/1.jpg": b""}), "a path that leaves it"),
    "a class missing": (
        "pets.tar",
        lambda: tarred({name: content for name, content in FILES.items() if name[:3] != "eel"}),
        "expected 3 class folders, found 2; missing: 'eel'",
    ),
    "unreadable": (
        "pets.tar",
        lambda: tarred(FILES | {"dog/2.jpg": b"<html>"}),
        "more than 0.1% of 15 pictures cannot be read: ",
    ),
}


@pytest.mark.parametrize(("name", "make", "says"), SPOILED.values(), ids=SPOILED.keys())
def test_bad_archives_are_one_line_and_leave_no_result(
    tmp_path: Path, classes: Path, name: str, make: Callable[[], bytes], says: str
) -> None:
    checkpoint = tmp_path / "model" / "m.pt"
    checkpoint.parent.mkdir()
    weights = build(MICRO, seed=0).state_dict()
    save_checkpoint(
        checkpoint,
        Checkpoint(epoch=1, name="m", state_dict=weights, model_config=MICRO.model_dump(mode="json")),
    )
    (tmp_path / name).write_bytes(make())
    with pytest.raises(ClipkitError) as caught:
        evaluate(checkpoint, EvaluateConfig(folder=tmp_path / name, classes=classes, workers=0))
    assert says in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (checkpoint.parent / "results.jsonl").exists()
    assert [file for file in (tmp_path / "cache").glob("files/*") if file.suffix != ".lock"] == []
