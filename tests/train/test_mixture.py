"""A run on several datasets at once."""

import json
import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipkit.cli import app
from clipkit.errors import ConfigError, TrainError
from clipkit.shards.mixture import Mixture
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.interrupt import TrainInterrupted
from clipkit.train.result import TrainResult
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory
from tests.conftest import WriteDataset
from tests.train.test_run import Watched, losses

CONFIG = TrainConfig(
    model="ViT-Micro/16@32px", batch_size=12, samples_seen=144, lr=1e-3, save_every=24, log_every=1, workers=0
)


@pytest.fixture
def sets(tiny_dataset: Path, write_dataset: WriteDataset, tmp_path: Path) -> list[ShardSet]:
    return [ShardSet(tiny_dataset), ShardSet(write_dataset(tmp_path / "other", 40))]


def go(data: Mixture, run: Path, stop_at: int = -1) -> TrainResult:
    return train(
        CONFIG,
        data,
        RunDirectory(run),
        (),
        lambda samples: Watched(samples, stop_at, lambda: os.kill(os.getpid(), signal.SIGINT)),
    )


def test_it_goes_on_where_it_was_stopped(sets: list[ShardSet], tmp_path: Path) -> None:
    mixture = Mixture(sets, [1, 3], repeat=True)
    go(mixture, tmp_path / "unbroken")
    with pytest.raises(TrainInterrupted):
        go(mixture, tmp_path / "stopped", stop_at=72)
    go(mixture, tmp_path / "stopped")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "unbroken")
    assert len(losses(tmp_path / "unbroken")) == 12
    with pytest.raises(TrainError, match="shares"):
        go(Mixture(sets, [1, 1], repeat=True), tmp_path / "stopped")


def test_a_batch_that_would_hold_a_sample_twice_is_refused(sets: list[ShardSet], tmp_path: Path) -> None:
    """As one larger than a data set is: the sample would be its own wrong answer."""
    mixture = Mixture(sets, [1, 9], repeat=True)  # of 64 and 40 samples
    of_forty = TrainConfig(model=CONFIG.model, batch_size=44, samples_seen=88, workers=0)
    assert train(of_forty, mixture, RunDirectory(tmp_path / "run"), ()).steps == 2
    larger = of_forty.model_copy(update={"batch_size": 45})
    with pytest.raises(ConfigError, match=r"found 40, and 90.0% of 45 are more: choose a smaller --batch"):
        train(larger, mixture, RunDirectory(tmp_path / "other"), ())


def test_the_command_takes_several(sets: list[ShardSet], tmp_path: Path) -> None:
    words = ["train", "--model", "ViT-Micro/16@32px", "--workers", "0", "--batch-size", "12"]
    words += ["--samples-seen", "24", "--runs", str(tmp_path / "runs"), "--json"]
    for each in sets:
        words += ["--shards", each.source]
    done = CliRunner().invoke(app, [*words, "--weight", "1", "--weight", "2"])
    assert done.exit_code == 0, done.output
    (config,) = (tmp_path / "runs").glob("dataset+other-ViT-Micro-16@32px/config.json")
    assert json.loads(config.read_text())["data"]["shares"] == ["1/3", "2/3"]
