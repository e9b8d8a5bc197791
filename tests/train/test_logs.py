"""What a run shows while it goes on."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clipkit.progress import Progress
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory
from tests.test_progress import on_a_terminal

CONFIG = TrainConfig(model="ViT-Micro/16@32px", batch_size=16, epochs=3, lr=1e-3, log_every=5, workers=0)
NOTE = r"loss \d\.\d{3}, [\d,]+ samples/s, \d+% waiting for data"


class Recorded(Progress):
    """A display that remembers what it was to show."""

    def __init__(self, samples: int):
        super().__init__("train", samples, "samples")
        self.shown: list[tuple[int, str]] = []

    def update(self, done: int, note: str = "", figures: Mapping[str, Any] | None = None) -> None:
        self.shown.append((done, note))


def test_each_step_is_shown_and_each_line_of_metrics_changes_the_figures(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    made: list[Recorded] = []

    def display(samples: int) -> Recorded:
        made.append(Recorded(samples))
        return made[0]

    run = RunDirectory(tmp_path / "run")
    train(CONFIG, ShardSet(tiny_dataset), run, progress=display)
    assert [done for done, _ in made[0].shown] == [16 * step for step in range(1, 13)]
    notes = [note for _, note in made[0].shown]
    assert notes[:4] == [""] * 4 and len(set(notes)) == 4
    assert all(re.fullmatch(NOTE, note) for note in notes[4:])
    for line, note in zip(run.metrics.read(), (notes[4], notes[9], notes[11]), strict=True):
        assert note.startswith(f"loss {line['loss']:.3f}, ")
        assert f"step {line['step']}: {note}" in (run.path / "out.log").read_text()
        assert 50 < line["peak_memory_mb"] < 100_000


@pytest.mark.slow
def test_a_terminal_has_a_bar_with_the_time_to_go_and_the_figures_below(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    long = CONFIG.model_copy(update={"epochs": 15})
    program = (
        "from pathlib import Path; from clipkit.shards.shard_set import ShardSet\n"
        "from clipkit.train.config import TrainConfig; from clipkit.train.run import RunDirectory, train\n"
        f"config = TrainConfig.model_validate_json({long.model_dump_json()!r})\n"
        f"train(config, ShardSet({str(tiny_dataset)!r}), RunDirectory(Path({str(tmp_path / 'run')!r})))\n"
    )
    lines = [line.rstrip() for line in on_a_terminal(program, 100)]
    bar = r"train [━╸╺]{15,40} [\d,]+/960 samples \d+:\d\d to go"
    assert any(re.fullmatch(bar, line) for line in lines)
    assert any(re.fullmatch(NOTE, line) for line in lines)
