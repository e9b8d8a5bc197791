from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.errors import ConfigError, DatasetError, TrainError
from clipkit.model.preprocess import TrainTransform
from clipkit.model.tokenizer import Tokenizer
from clipkit.shards.loader import Batch, batches
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.distributed import World
from clipkit.train.overfit import described, fixed_samples, repeated
from clipkit.train.result import TrainResult
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory
from tests.conftest import picture
from tests.tars import write_tar

WORDS = ["cat", "dog", "house", "tree", "car", "river", "moon", "boat", "hill", "rain", "bird", "snow"]
SETTINGS: dict[str, Any] = {"model": "ViT-Micro/16@32px", "lr": 1e-3, "log_every": 5, "workers": 0}


def data(folder: Path, captions: list[str]) -> ShardSet:
    samples = ({"__key__": f"{n:03d}", "jpg": picture(n), "txt": text} for n, text in enumerate(captions))
    folder.mkdir(exist_ok=True)
    return ShardSet(str(write_tar(folder / "data.tar", samples)))


def overfit(shards: ShardSet, run: Path, **more: Any) -> TrainResult:
    config = TrainConfig(**(SETTINGS | {"overfit": 12, "epochs": 60} | more))
    return train(config, shards, RunDirectory(run), [lambda *_: pytest.fail("evaluated")])


def test_samples_that_can_be_told_apart_are_learned_by_heart(tmp_path: Path) -> None:
    result = overfit(data(tmp_path, WORDS), tmp_path / "run")
    assert (result.steps, result.samples, result.checkpoint.name) == (60, 720, "epoch_1.pt")
    assert result.final_loss < 0.1
    assert "about zero: the 12 samples are learned by heart" in result.lines()
    assert [each.name for each in result.checkpoint.parent.glob("*.pt")] == ["epoch_1.pt"]
    stored = RunDirectory(tmp_path / "run").read_config()
    assert stored is not None and (stored["overfit"], stored["batch_size"]) == (12, 12)


def test_what_cannot_be_learned_is_said_before_and_after(tmp_path: Path) -> None:
    result = overfit(data(tmp_path, ["cat"] * 6 + ["dog"] * 6), tmp_path / "run")
    assert result.final_loss > 1.7  # ln 6
    assert "not about zero: the 12 samples are not learned by heart" in result.lines()
    said = (tmp_path / "run" / "out.log").read_text()
    assert (
        "12 fixed samples, nothing is evaluated; they have 2 different captions, so the loss stays above "
        in said
    )
    assert "about 1.8" in said


def test_samples_that_cannot_be_read_are_noted_and_counted_as_in_any_run(tmp_path: Path) -> None:
    samples = [{"__key__": word, "jpg": picture(n), "txt": word} for n, word in enumerate(WORDS)]
    samples[3]["jpg"] = b"no picture"
    shards = ShardSet(str(write_tar(tmp_path / "data.tar", samples)))
    overfit(shards, tmp_path / "run", epochs=1)
    assert "sample tree: its picture" in (tmp_path / "run" / "out.log").read_text()
    with pytest.raises(DatasetError, match=r"1 of the 12 samples .*, more than the 0.00% allowed"):
        overfit(shards, tmp_path / "strict", epochs=1, max_bad=0.0)


def test_a_usual_run_of_that_name_is_another_one(tmp_path: Path) -> None:
    shards = data(tmp_path, WORDS)
    overfit(shards, tmp_path / "run", epochs=1)
    usual = TrainConfig(**SETTINGS, batch_size=12, epochs=1)
    with pytest.raises(TrainError, match="cannot be continued, since overfit was 12, now None"):
        train(usual, shards, RunDirectory(tmp_path / "run"))
    train(usual, shards, RunDirectory(tmp_path / "usual"))
    with pytest.raises(TrainError, match="cannot be continued, since overfit was None, now 12"):
        overfit(shards, tmp_path / "usual", epochs=1)


def test_a_number_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    shards = data(tmp_path, WORDS)
    for wrong in ({"overfit": 13}, {"overfit": 8, "batch_size": 9}):
        with pytest.raises(ConfigError, match=r"--overfit .*: expected at least a batch of .* data set's 12"):
            overfit(shards, tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


def test_the_samples_are_the_first_of_the_runs_order(tiny_dataset: Path) -> None:
    shards, made = ShardSet(tiny_dataset), (TrainTransform(32), Tokenizer(77))
    samples = fixed_samples(shards, TrainConfig(seed=3, workers=0), 20, *made, print)
    stream = batches(shards, batch_size=10, seed=3, transform=made[0], tokenize=made[1])
    first, second = next(stream), next(stream)
    wanted = torch.cat([first.positions_B, second.positions_B])
    places = samples.positions_B.argsort()
    assert samples.positions_B[places].tolist() == wanted.sort().values.tolist()
    images_BCHW = torch.cat([first.images_BCHW, second.images_BCHW])[wanted.argsort()]
    assert torch.equal(samples.images_BCHW[places], images_BCHW)


def numbered(count: int) -> Batch:
    rows = torch.arange(count)
    return Batch(rows.view(-1, 1, 1, 1).to(torch.uint8), rows.view(-1, 1) // 2, rows)


def rows(batch_size: int, first: int, steps: int, size: int = 1) -> list[list[int]]:
    """The rows of each step's batch, all processes' shares one after the other."""
    streams = [
        repeated(numbered(10), batch_size, first, steps, World(rank, size, torch.device("cpu")))
        for rank in range(size)
    ]
    return [torch.cat([each.positions_B for each in step]).tolist() for step in zip(*streams, strict=True)]


def test_batches_go_round_and_are_the_same_after_a_stop_and_for_any_processes() -> None:
    whole = rows(4, 0, 5)
    assert whole == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1], [2, 3, 4, 5], [6, 7, 8, 9]]
    assert rows(4, 2, 5) == whole[2:]
    assert rows(4, 0, 5, size=2) == whole
    assert "so the loss stays above about 0.69" in described(numbered(10))  # ln 2: pairs of equal captions
