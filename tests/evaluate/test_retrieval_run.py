"""`clipkit evaluate` of shards and tables by retrieval: from files on disk to lines in results.jsonl."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from clipkit.errors import ClipkitError, DatasetError, EvaluationError, SourceError
from clipkit.evaluate.config import EvaluateConfig
from clipkit.evaluate.ranks import ALONE
from clipkit.evaluate.run import evaluate
from clipkit.evaluate.validation import validation_evaluator
from clipkit.lines import JsonLines
from clipkit.model.checkpoint import Checkpoint, load_model, save_checkpoint
from clipkit.model.config import named_config
from clipkit.shards.shard_set import ShardSet
from tests.conftest import picture
from tests.evaluate.spread import spread_model
from tests.tars import write_tar
from tests.threads import one_thread as one_thread

MICRO = named_config("ViT-Micro/16@32px")
WORDS = ("red", "house", "white shark", "cups", "fire", "table", "snow", "ox", "a tench", "the sea")
PICTURES = 23


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = spread_model()
    path = tmp_path / "runs" / "first" / "checkpoints" / "epoch_2.pt"
    path.parent.mkdir(parents=True)
    content = Checkpoint(
        epoch=2, name="first", state_dict=model.state_dict(), model_config=MICRO.model_dump(mode="json")
    )
    save_checkpoint(path, content)
    return path


def caption(number: int, which: int = 0) -> str:
    return f"{WORDS[number % 10]} {number} {WORDS[(number + 3 * which) % 10]}"


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    folder = tmp_path / "flowers"
    folder.mkdir()
    for tar, numbers in enumerate((range(12), range(12, PICTURES))):
        samples = [{"__key__": f"{n:05}", "jpg": picture(n, 40, 50), "txt": caption(n)} for n in numbers]
        write_tar(folder / f"{tar:05}.tar", samples)
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two captions for each picture, by its path."""
    lines = ["picture|words"]
    for number in range(PICTURES):
        (tmp_path / f"{number}.jpg").write_bytes(picture(number, 40, 50))
        lines += [f"{number}.jpg|{caption(number, which)}" for which in (0, 1)]
    (tmp_path / "coco.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "coco.csv"


def test_shards_are_measured_as_the_trainer_does_and_recorded(checkpoint: Path, tars: Path) -> None:
    evaluated = evaluate(checkpoint, EvaluateConfig(val_shards=str(tars), workers=0))
    (record,) = JsonLines(checkpoint.parent.parent / "results.jsonl").read()
    assert record == json.loads(json.dumps(evaluated.as_json()["results"][0]))
    trainers = dict(validation_evaluator(ShardSet(tars), 64, workers=0)(load_model(checkpoint), ALONE))
    assert trainers.pop("num_samples") == record["pairs"] == PICTURES
    trainers.pop("clip_val_loss")
    assert {name: record[name] for name in trainers} == trainers
    assert record["text_retrieval_recall@5"] == record["image_to_text_R@5"]
    assert record["image_retrieval_recall@1"] == record["text_to_image_R@1"]
    lines = "".join(
        f"{hashlib.sha256(picture(n, 40, 50)).hexdigest()}\t{sha256_of(caption(n).encode())}\n"
        for n in range(PICTURES)
    )
    expected = {
        "kind": "retrieval",
        "model": "ViT-Micro/16@32px",
        "set": "flowers",
        "path": str(tars),
        "data_sha256": ShardSet(tars).fingerprint,
        "files_sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "images": PICTURES,
        "captions": PICTURES,
        "unreadable": [],
        "device": "cpu",
        "precision": "float32",
        "options": {"val_shards": str(tars), "workers": 0},
    }
    assert {name: record[name] for name in expected} == expected
    header, _, first, second, last = evaluated.lines().split("\n")
    assert header.split()[:3] == ["set", "retrieval", "queries"]
    assert first.split("  ")[:2] == ["flowers", "picture → its pair's caption"]
    assert f"{record['text_to_image_R@10']:.2%}" in second
    assert last.startswith("added to ")


def test_pairs_of_one_picture_are_its_captions(checkpoint: Path, table: Path) -> None:
    config = EvaluateConfig(val_csv=table, image_col="picture", caption_col="words", separator="|", workers=0)
    evaluated = evaluate(checkpoint, config)
    (record,) = evaluated.records
    assert (record["set"], record["path"]) == ("coco", str(table))
    assert (record["pairs"], record["images"], record["captions"]) == (2 * PICTURES, PICTURES, 2 * PICTURES)
    assert record["text_retrieval_recall@10"] > record["image_to_text_R@10"]
    assert record["image_retrieval_recall@10"] > record["text_to_image_R@10"]
    assert record["options"]["caption_col"] == "words"
    _, _, *rows, _ = evaluated.lines().split("\n")
    assert rows[2].split("  ")[1] == "picture → any of its captions" and rows[2].split()[7:9] == ["23", "46"]
    assert rows[3].split("  ")[1] == "caption → its picture"
    copies = table.with_name("copies.csv")  # the same pictures under other paths are the same pictures
    lines = table.read_text().splitlines()
    for number in range(PICTURES):
        shutil.copy(table.with_name(f"{number}.jpg"), table.with_name(f"copy{number}.jpg"))
        lines[2 * number + 2] = "copy" + lines[2 * number + 2]
    copies.write_text("\n".join(lines) + "\n")
    (again,) = evaluate(checkpoint, config.model_copy(update={"val_csv": copies})).records
    assert again["files_sha256"] == record["files_sha256"] and again["data_sha256"] != record["data_sha256"]
    assert again["text_retrieval_recall@1"] == record["text_retrieval_recall@1"]


def test_another_picture_or_caption_are_other_files(checkpoint: Path, table: Path) -> None:
    config = EvaluateConfig(val_csv=table, image_col="picture", caption_col="words", separator="|", workers=0)

    def files_sha256(workers: int = 0) -> str:
        (record,) = evaluate(checkpoint, config.model_copy(update={"workers": workers})).records
        return str(record["files_sha256"])

    before = files_sha256()
    assert files_sha256(workers=1) == before
    table.with_name("3.jpg").write_bytes(picture(3, 40, 51))
    changed = files_sha256()
    assert changed != before
    table.write_text(table.read_text().replace("snow 6 snow", "snow 6 rain"))
    assert files_sha256() not in {before, changed}


def no_such_column(root: Path) -> EvaluateConfig:
    return EvaluateConfig(val_csv=root / "coco.csv", caption_col="words", separator="|")


def no_pictures(root: Path) -> EvaluateConfig:
    for number in range(PICTURES):
        (root / f"{number}.jpg").unlink()
    return EvaluateConfig(val_csv=root / "coco.csv", image_col="picture", caption_col="words", separator="|")


def some_pictures_missing(root: Path) -> EvaluateConfig:
    for number in range(2, 3):
        (root / f"{number}.jpg").unlink()
    return EvaluateConfig(
        val_csv=root / "coco.csv", image_col="picture", caption_col="words", separator="|", workers=0
    )


def an_empty_table(root: Path) -> EvaluateConfig:
    (root / "coco.csv").write_text("filepath|title\n")
    return EvaluateConfig(val_csv=root / "coco.csv", separator="|")


def an_empty_folder(root: Path) -> EvaluateConfig:
    (root / "empty").mkdir()
    return EvaluateConfig(val_shards=str(root / "empty"))


def no_folder(root: Path) -> EvaluateConfig:
    return EvaluateConfig(val_shards=str(root / "none"))


def a_shard_cut_off(root: Path) -> EvaluateConfig:
    (root / "cut").mkdir()
    sample = {"__key__": "1", "jpg": picture(1), "txt": "a"}
    tar = write_tar(root / "cut" / "0.tar", [sample])
    tar.write_bytes(tar.read_bytes()[:900])
    return EvaluateConfig(val_shards=str(root / "cut"), workers=0)


def another_index(root: Path) -> EvaluateConfig:
    return EvaluateConfig(val_shards=str(root / "coco.csv"))


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (no_such_column, SourceError, "filepath"),
        (no_pictures, SourceError, "expected paths of pictures in the column 'picture'"),
        (some_pictures_missing, EvaluationError, "at most 0 of 46 samples that cannot be read, found 2: "),
        (an_empty_table, SourceError, "expected records with a path and a caption, found none"),
        (an_empty_folder, DatasetError, "empty"),
        (no_folder, DatasetError, "none"),
        (a_shard_cut_off, DatasetError, "0.tar"),
        (another_index, DatasetError, "coco.csv"),
    ],
)
def test_bad_sets_are_one_line_and_leave_no_result(
    checkpoint: Path,
    table: Path,
    tmp_path: Path,
    spoil: Callable[[Path], EvaluateConfig],
    error: type[ClipkitError],
    says: str,
) -> None:
    with pytest.raises(error) as caught:
        evaluate(checkpoint, spoil(tmp_path))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (checkpoint.parent.parent / "results.jsonl").exists()


def test_options_that_do_not_go_together_are_refused(checkpoint: Path, tars: Path, table: Path) -> None:
    with pytest.raises(ValidationError, match="expected one of --val-shards and --val-csv, found both"):
        EvaluateConfig(val_shards=str(tars), val_csv=table)
    with pytest.raises(EvaluationError, match="--per-class and --predictions are tables of classification"):
        evaluate(checkpoint, EvaluateConfig(val_shards=str(tars), per_class=table.with_name("classes.csv")))
