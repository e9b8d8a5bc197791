"""Training on a table of pictures: the run of the dataset that ingest makes of it, and resumed like one."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clipkit.errors import DatasetError, TrainError
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.local_files import local_files
from clipkit.ingest.run import ingest
from clipkit.lines import JsonLines
from clipkit.shards.csv_set import CsvSet
from clipkit.shards.sample_set import SampleSet
from clipkit.shards.shard_set import ShardSet
from clipkit.train.interrupt import TrainInterrupted
from clipkit.train.result import TrainResult
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory
from tests.conftest import picture
from tests.train.test_run import CONFIG, Watched, lines

SAMPLES = 64
CSV_CONFIG = CONFIG.model_copy(update={"epochs": 2})


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    records = ["filepath,title"]
    for number in range(SAMPLES):
        (folder / f"{number}.jpg").write_bytes(picture(number))
        records.append(f'{number}.jpg,"caption, number {number}"')
    (folder / "train.csv").write_text("\n".join(records) + "\n")
    return folder / "train.csv"


def go(
    data: SampleSet, path: Path, workers: int = 0, at: int = -1, act: Callable[[], object] = bool
) -> TrainResult:
    config = CSV_CONFIG.model_copy(update={"workers": workers})
    return train(config, data, RunDirectory(path), (), lambda samples: Watched(samples, at, act))


@pytest.mark.slow
def test_the_run_is_that_of_the_dataset_which_ingest_makes(table: Path, tmp_path: Path) -> None:
    ingest(local_files(table), tmp_path / "dataset", IngestConfig(keep_original=True, workers=1))
    go(ShardSet(tmp_path / "dataset"), tmp_path / "packed")
    go(CsvSet(table), tmp_path / "listed", workers=1)
    assert len(lines(tmp_path / "packed")) == 10
    assert lines(tmp_path / "listed") == lines(tmp_path / "packed")


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped_wherever_the_table_lies(table: Path, tmp_path: Path) -> None:
    go(CsvSet(table), tmp_path / "whole")
    stop = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    with pytest.raises(TrainInterrupted):
        go(CsvSet(table), tmp_path / "stopped", at=48, act=stop)
    moved = table.parent.rename(tmp_path / "elsewhere") / table.name
    go(CsvSet(moved), tmp_path / "stopped")
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")


def test_another_table_is_another_run(table: Path, tmp_path: Path) -> None:
    stop = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    with pytest.raises(TrainInterrupted):
        go(CsvSet(table), tmp_path / "run", at=48, act=stop)
    table.write_text(table.read_text().replace("number 7", "number seven"))
    with pytest.raises(TrainError, match=r"data\.fingerprint"):
        go(CsvSet(table), tmp_path / "run")


def test_pictures_that_cannot_be_read_are_counted_and_named(table: Path, tmp_path: Path) -> None:
    (table.parent / "5.jpg").unlink()
    (table.parent / "6.jpg").write_bytes(b"no picture")
    result = go(CsvSet(table), tmp_path / "run")
    assert result.unreadable == 3  # in two epochs, of which the last eight samples fill no batch
    told = (tmp_path / "run" / "out.log").read_text()
    assert f"{table}: sample 000000005: 5.jpg cannot be read: No such file or directory; another" in told
    assert f"{table}: sample 000000006: its picture cannot be decoded: not a picture" in told
    for number in range(10, 20):
        (table.parent / f"{number}.jpg").unlink()
    with pytest.raises(DatasetError, match=r"11 of the \d+ samples read so far cannot be read"):
        go(CsvSet(table), tmp_path / "many")


@pytest.mark.slow
def test_the_command_trains_and_evaluates_on_tables(table: Path, tmp_path: Path) -> None:
    lines = table.read_text().splitlines()
    validation = table.with_name("val.tsv")
    validation.write_text("\n".join(line.replace(".jpg,", ".jpg\t") for line in lines[1:20]) + "\n")
    validation.write_text("filepath\ttitle\n" + validation.read_text())
    command: list[str | Path] = [sys.executable, "-m", "clipkit", "train", "--model", CONFIG.model]
    command += [
        "--workers",
        "0",
        "--batch-size",
        "16",
        "--epochs",
        "3",
        "--runs",
        tmp_path / "runs",
        "--evaluate-epochs",
        "2",
    ]
    command += ["--csv", table, "--val-csv", validation, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name == "train-ViT-Micro-16@32px"
    results = JsonLines(run / "results.jsonl").read()
    assert [line["step"] for line in results] == [0, 8, 12]
    assert [line["checkpoint"] for line in results] == [None, "epoch_2.pt", "epoch_3.pt"]
    assert all(0 <= line["image_to_text_R@1"] <= line["image_to_text_R@10"] <= 1 for line in results)
    assert results[-1]["clip_val_loss"] < results[0]["clip_val_loss"]
