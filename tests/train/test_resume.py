"""`--resume`: to be sure that a run goes on, or that it begins; and what TensorBoard then holds."""

import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipkit.errors import TrainError
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.interrupt import TrainInterrupted
from clipkit.train.result import TrainResult
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory
from tests.train import test_run

CONFIG = TrainConfig(model="ViT-Micro/16@32px", batch_size=32, epochs=1, lr=1e-3, workers=0)


def run_it(dataset: Path, path: Path, resume: str) -> TrainResult:
    return train(CONFIG.model_copy(update={"resume": resume}), ShardSet(dataset), RunDirectory(path))


def contents(path: Path) -> dict[Path, bytes]:
    return {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}


def test_what_must_go_on_is_not_begun(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"with --resume must expected a checkpoint .*, found none: mend"):
        run_it(tiny_dataset, tmp_path / "runs" / "new", "must")
    assert not (tmp_path / "runs").exists()
    RunDirectory(tmp_path).write_config({})  # killed before its first checkpoint
    with pytest.raises(TrainError, match="--resume must"):
        run_it(tiny_dataset, tmp_path, "must")
    assert [each.name for each in tmp_path.iterdir()] == ["config.json"]


def test_what_must_begin_leaves_a_run_alone(tiny_dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert run_it(tiny_dataset, path, "never").steps == 2
    before = contents(path)
    with pytest.raises(TrainError, match="with --resume never expected no run of this name, found one"):
        run_it(tiny_dataset, path, "never")
    assert run_it(tiny_dataset, path, "must").finished_before
    assert run_it(tiny_dataset, path, "auto").finished_before
    (path / "config.json").unlink()
    with pytest.raises(TrainError, match="--resume never"):
        run_it(tiny_dataset, path, "never")
    assert {each: before[each] for each in contents(path)} == contents(path)


def records(file: Path) -> Iterator[tuple[int, bytes]]:
    """The offsets and contents of an event file's records: length, its checksum, content, its checksum."""
    content, offset = file.read_bytes(), 0
    while offset < len(content):
        (length,) = struct.unpack_from("<Q", content, offset)
        yield offset, content[offset + 12 : offset + 12 + length]
        offset += length + 16


@pytest.mark.parametrize("lost", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_board_has_the_checkpoints_step_once(lost: bool, tiny_dataset: Path, tmp_path: Path) -> None:
    """The evaluation after a checkpoint is in results.jsonl, and a kill may have kept it from the board."""
    whole, path = tmp_path / "whole", tmp_path / "run"
    test_run.run_it(tiny_dataset, whole)
    with pytest.raises(TrainInterrupted):
        test_run.run_it(tiny_dataset, path, at=84, act=lambda: os.kill(os.getpid(), signal.SIGINT))
    (path / "checkpoints" / "latest").unlink()
    (path / "checkpoints" / "latest").symlink_to("epoch_1.pt")
    (events,) = (path / "tensorboard").iterdir()
    *_, (offset, _) = [each for each in records(events) if b"scale" in each[1] and b"logit" not in each[1]]
    if lost:
        os.truncate(events, offset + 20)
    assert ("scale" in test_run.scalars(path)) and (len(test_run.scalars(path)["scale"]) == 2 - lost)
    test_run.run_it(tiny_dataset, path)
    assert test_run.scalars(path) == test_run.scalars(whole)
    assert test_run.lines(path) == test_run.lines(whole)
