"""A run whose newest checkpoint was damaged: which one it can go on from is said, and it does."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clipkit.errors import CheckpointError
from clipkit.model.checkpoint import load_checkpoint
from clipkit.shards.shard_set import ShardSet
from clipkit.train.checkpoints import naming_older
from clipkit.train.config import TrainConfig
from clipkit.train.result import TrainResult
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory

# 64 samples: 2 epochs are 10 batches; epochs close at steps 6 and 10, and steps 3, 5 and 8 are saved besides.
CONFIG = TrainConfig(
    model="ViT-Micro/16@32px", batch_size=12, epochs=2, lr=1e-3, save_every=30, log_every=1, workers=0
)


def run_it(dataset: Path, path: Path) -> TrainResult:
    return train(CONFIG, ShardSet(dataset), RunDirectory(path))


def lines(path: Path) -> list[dict[str, Any]]:
    clock = {"samples_per_second", "data_wait", "peak_memory_mb"}
    texts = (path / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(text).items() if k not in clock} for text in texts]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


@pytest.fixture(scope="module")
def whole(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    run_it(tiny_dataset, path)
    assert {each.name for each in (path / "checkpoints").glob("*.pt")} == {
        "epoch_1.pt",
        "epoch_2.pt",
        "step_5.pt",
        "step_8.pt",
    }
    return path


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "a folder" / "whole", symlinks=True)


def test_the_line_names_the_older_one_and_what_it_says_works(
    run: Path, whole: Path, tiny_dataset: Path
) -> None:
    checkpoints = run / "checkpoints"
    cut(checkpoints / "epoch_2.pt")
    (checkpoints / "step_8.pt").write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        run_it(tiny_dataset, run)
    line = str(caught.value)
    assert line.startswith(f"{checkpoints}/epoch_2.pt is cut short or damaged")
    assert f"; {checkpoints}/epoch_1.pt is older and whole: the same command goes on" in line
    assert "\n" not in line
    subprocess.run(line.partition(" from it after ")[2], shell=True, check=True)
    result = run_it(tiny_dataset, run)
    assert (result.checkpoint.name, result.finished_before) == ("epoch_2.pt", False)
    assert "goes on after step 6" in (run / "out.log").read_text()
    assert lines(run) == lines(whole)


def test_a_damaged_copy_of_the_newest_in_place_of_its_link(
    run: Path, whole: Path, tiny_dataset: Path
) -> None:
    latest = run / "checkpoints" / "latest"
    shutil.copy(latest, run / "checkpoints" / "copy")
    (run / "checkpoints" / "copy").rename(latest)
    cut(run / "checkpoints" / "epoch_2.pt")
    with pytest.raises(CheckpointError, match=r"step_8\.pt is older and whole") as caught:
        run_it(tiny_dataset, run)
    subprocess.run(str(caught.value).partition(" from it after ")[2], shell=True, check=True)
    run_it(tiny_dataset, run)
    assert lines(run) == lines(whole)


def test_where_none_is_whole_none_is_named(run: Path, tiny_dataset: Path) -> None:
    for path in (run / "checkpoints").glob("*.pt"):
        cut(path)
    with pytest.raises(
        CheckpointError, match=r"epoch_2\.pt is cut short or damaged; fetch or write it anew$"
    ):
        run_it(tiny_dataset, run)


def test_where_the_settings_cannot_be_read_none_is_named(run: Path) -> None:
    newest = run / "checkpoints" / "epoch_2.pt"
    cut(newest)
    (run / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"write it anew$"), naming_older(newest, str):
        load_checkpoint(newest)
    (run / "config.json").unlink()
    (run / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"write it anew$"), naming_older(newest, str):
        load_checkpoint(newest)


def test_a_file_in_no_run_has_none_beside_it(run: Path) -> None:
    moved = (run / "checkpoints").rename(run / "mine") / "epoch_2.pt"
    cut(moved)
    shutil.copytree(run / "mine", run / "checkpoints", symlinks=True)
    with pytest.raises(CheckpointError, match=r"write it anew$"), naming_older(moved, str):
        load_checkpoint(moved)
