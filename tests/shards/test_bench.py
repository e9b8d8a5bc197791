"""`clipkit shards bench`: that it measures what training does, and what it makes of the figures."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipkit.cli import app
from clipkit.errors import DatasetError
from clipkit.model.preprocess import TrainTransform
from clipkit.model.tokenizer import Tokenizer
from clipkit.shards.bench import BenchResult, bench, judged
from clipkit.shards.shard_set import ShardSet
from tests.shards.test_bad_samples import overwrite


def measure(directory: Path, workers: int = 0) -> BenchResult:
    sizes = {"batch_size": 8, "workers": workers, "steps": 2}
    return bench(ShardSet(directory), **sizes, transform=TrainTransform(16), tokenize=Tokenizer())


@pytest.mark.parametrize("workers", [0, 1])
def test_the_command_measures_each_step_and_the_whole(tiny_dataset: Path, workers: int) -> None:
    words = ["shards", "bench", str(tiny_dataset), "--batch-size", "8", "--steps", "2", "--image-size", "16"]
    shown = CliRunner().invoke(app, [*words, "--workers", str(workers), "--json"])
    assert shown.exit_code == 0, shown.output
    figures = json.loads(shown.stdout)
    assert set(figures["steps"]) >= {"read", "decode", "augment", "collate"}
    assert all(rate > 0 for rate in figures["steps"].values())
    assert figures["whole"] > 0
    assert (figures["workers"], figures["batch_size"]) == (workers, 8)
    assert figures["bottleneck"] in {*figures["steps"], "workers"}
    assert figures["advice"]


def test_samples_that_cannot_be_read_are_left_out_unless_they_are_all(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    directory = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    for row in range(0, 64, 4):
        overwrite(directory, 0, row, "image")
    assert measure(directory).whole > 0
    for row in range(64):
        overwrite(directory, 0, row, "image")
    with pytest.raises(DatasetError, match="none of 8 samples can be read"):
        measure(directory)


STEPS = {"read": 1e-4, "decode": 4e-4, "augment": 3e-4, "collate": 1e-4}


@pytest.mark.parametrize(
    ("changed", "whole", "workers", "cpus", "bottleneck", "advice"),
    [
        ({}, 2000, 2, 8, "decode", "more --workers, up to the number of CPUs: 8"),
        ({}, 8000, 8, 8, "decode", "smaller pictures"),
        ({"augment": 2e-3}, 3000, 8, 8, "augment", "fewer changes"),
        ({"read": 5e-3}, 350, 2, 8, "read", "faster or nearer disk"),
        ({"device_copy": 1e-3}, 990, 2, 8, "device_copy", "the way to the GPU"),
        ({"device_copy": 1e-5}, 2000, 2, 8, "decode", "more --workers"),
        ({}, 500, 2, 2, "workers", "2,222 samples/s were to be expected"),
        ({}, 1000, 1, 1, "decode", "more CPUs"),
    ],
)
def test_what_limits_it_is_told_from_the_figures(
    changed: dict[str, float], whole: float, workers: int, cpus: int, bottleneck: str, advice: str
) -> None:
    found = judged(STEPS | changed, whole, workers, cpus)
    assert found[0] == bottleneck
    assert advice in found[1]
    result = BenchResult({"read": 1234.0}, whole, workers, 256, cpus, *found)
    assert "read" in result.lines() and found[1] in result.lines() and "1,234 samples/s" in result.lines()
