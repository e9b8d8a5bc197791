"""`clipkit shards bench`: that it measures what training does, and what it makes of the figures."""

import fcntl
import json
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from clipkit.cli import app
from clipkit.errors import DatasetError
from clipkit.model.preprocess import TrainTransform
from clipkit.model.tokenizer import Tokenizer
from clipkit.shards.bench import BenchResult, bench
from clipkit.shards.bottleneck import Figures, judged
from clipkit.shards.shard_set import Sample, ShardSet
from tests.shards.test_bad_samples import overwrite


def measure(shards: ShardSet, workers: int = 0, tokenize: Tokenizer | None = None) -> BenchResult:
    sizes = {"batch_size": 8, "workers": workers, "steps": 2}
    return bench(shards, **sizes, transform=TrainTransform(16), tokenize=tokenize or Tokenizer())


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
    assert measure(ShardSet(directory)).whole > 0
    for row in range(64):
        overwrite(directory, 0, row, "image")
    with pytest.raises(DatasetError, match="none of 8 samples can be read"):
        measure(ShardSet(directory))


FIGURES = Figures(
    {"read": 1e-4, "decode": 4e-4, "augment": 3e-4, "collate": 1e-4},
    reads_alone=10_000,
    reads=20_000,
    whole=2000,
    workers=2,
    cpus=8,
    short_side=256,
    image_size=224,
)


@pytest.mark.parametrize(
    ("step", "changed", "bottleneck", "advice"),
    [
        ({}, {}, "decode", "more --workers, up to the number of CPUs: 8"),
        ({}, {"whole": 8000, "workers": 8}, "decode", "more CPUs"),
        ({}, {"whole": 8000, "workers": 8, "short_side": 800}, "decode", "side is 800 pixels, .* takes 224"),
        ({"augment": 2e-3}, {"whole": 3000, "workers": 8}, "augment", "more CPUs"),
        ({"read": 5e-3}, {"whole": 350, "reads_alone": 200, "reads": 400}, "read", "so that more reads wait"),
        (
            {"read": 5e-3},
            {"whole": 190, "reads_alone": 200, "reads": 200},
            "read",
            "more --workers would not help",
        ),
        ({}, {"whole": 950, "reads": 1000}, "read", "faster or nearer disk"),
        ({"device_copy": 1e-3}, {"whole": 990}, "device_copy", "the way to the GPU"),
        ({"device_copy": 1e-5}, {}, "decode", "more --workers"),
        ({}, {"whole": 500, "cpus": 2}, "workers", "2,222 samples/s were to be expected"),
        ({}, {"whole": 1000, "workers": 1, "cpus": 1}, "decode", "more CPUs"),
    ],
)
def test_what_limits_it_is_told_from_the_figures(
    step: dict[str, float], changed: dict[str, Any], bottleneck: str, advice: str
) -> None:
    figures = FIGURES._replace(seconds=FIGURES.seconds | step, **changed)
    found = judged(figures)
    assert found[0] == bottleneck
    assert re.search(advice, found[1])
    result = BenchResult(
        {"read": 1234.0}, 99.0, figures.whole, figures.workers, 256, figures.cpus, 256, *found
    )
    assert "read" in result.lines() and found[1] in result.lines() and "1,234 samples/s" in result.lines()


@pytest.mark.parametrize(
    ("kind", "method", "step"),
    [
        (TrainTransform, "decode", "decode"),
        (TrainTransform, "augment", "augment"),
        (Tokenizer, "__call__", "collate"),
    ],
)
def test_a_slow_step_is_named(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, kind: type, method: str, step: str
) -> None:
    quick = getattr(kind, method)

    def slow(self: object, *given: object) -> Any:
        time.sleep(0.02)
        return quick(self, *given)

    monkeypatch.setattr(kind, method, slow)
    found = measure(ShardSet(tiny_dataset))
    assert found.bottleneck == step == min(found.steps, key=lambda name: found.steps[name])


def test_the_copy_to_a_gpu_is_a_step_where_there_is_one(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "device_copy" not in measure(ShardSet(tiny_dataset)).steps or torch.cuda.is_available()
    monkeypatch.setattr("clipkit.shards.bench.device_copy_seconds", lambda batch: 8 * 0.5)
    found = measure(ShardSet(tiny_dataset))
    assert (found.steps["device_copy"], found.bottleneck) == (2, "device_copy")


class OneAtATime(ShardSet):
    """Shards on a disk that serves one read at a time, whoever asks, in five milliseconds."""

    place_of_lock: Path

    def read(self, shard: int, row: int) -> Sample:
        with self.place_of_lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            time.sleep(0.005)
        return super().read(shard, row)


class Far(ShardSet):
    """Shards of which each read takes fifty milliseconds, however many wait at a time."""

    def read(self, shard: int, row: int) -> Sample:
        time.sleep(0.05)
        return super().read(shard, row)


def test_a_slow_disk_is_told_from_a_far_one(tiny_dataset: Path, tmp_path: Path) -> None:
    busy, far = OneAtATime(tiny_dataset), Far(tiny_dataset)
    busy.place_of_lock = tmp_path / "lock"
    busy.place_of_lock.touch()
    found = measure(busy, workers=2)
    assert found.bottleneck == "read" and "would not help" in found.advice
    found = measure(far, workers=2)
    assert found.bottleneck == "read" and "more --workers, so that more reads wait" in found.advice


def test_what_is_loaded_at_first_use_is_no_step(tiny_dataset: Path) -> None:
    class Loading(Tokenizer):
        """A tokenizer that loads its merges at the first call, and takes half a second for it."""

        loaded = False

        def __call__(self, texts: Sequence[str]) -> Any:
            if not Loading.loaded:
                Loading.loaded = True
                time.sleep(0.5)
            return super().__call__(texts)

    found = measure(ShardSet(tiny_dataset), tokenize=Loading())
    assert Loading.loaded and found.steps["collate"] > 16 / 0.5
    assert found.short_side == 40
