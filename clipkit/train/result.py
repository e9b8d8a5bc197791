"""What a run came to, for a program and for a reader."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipkit.tables import table
from clipkit.train.length import RunLength
from clipkit.train.overfit import verdict
from clipkit.train.run_directory import RunDirectory
from clipkit.train.state import TrainState


@dataclass(frozen=True)
class TrainResult:
    """What a run came to, over all its sittings.

    `seconds` are those of training, without evaluations; `data_wait` is the share of them spent waiting for
    data; `not_trained` counts the samples at the very end that filled no batch, `unreadable` those of all
    processes in whose place others were trained on; `finished_before` tells that nothing was left to do, and
    `overfit`, of a run that was to learn some samples by heart, whether it did.
    """

    run: Path
    checkpoint: Path
    steps: int
    samples: int
    not_trained: int
    unreadable: int
    seconds: float
    samples_per_second: float
    data_wait: float
    final_loss: float
    finished_before: bool
    overfit: str | None

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {name: str(v) if isinstance(v, Path) else v for name, v in asdict(self).items()}

    def lines(self) -> str:
        """Return the result as a table to read."""
        rows = [
            ("run", str(self.run)),
            ("checkpoint", str(self.checkpoint)),
            ("steps", f"{self.steps:,}"),
            ("samples", f"{self.samples:,}, and {self.not_trained:,} at the end that filled no batch"),
            *([("unreadable", f"{self.unreadable:,}, others took their places")] if self.unreadable else []),
            ("time", f"{self.seconds:,.1f} s, {self.data_wait:.0%} of it waiting for data"),
            ("samples/s", f"{self.samples_per_second:,.1f}"),
            ("final loss", f"{self.final_loss:.4f}"),
            *([("overfit", self.overfit)] if self.overfit else []),
        ]
        return table(rows)


def result_of(
    run: RunDirectory, length: RunLength, state: TrainState, finished_before: bool, overfit: int | None
) -> TrainResult:
    """Return what `run` came to; `state` is where it stands."""
    samples = state.step * length.batch_size
    loss = _last_loss(run)
    checkpoint = run.latest()
    assert checkpoint is not None, "a run that came to its end has written its last checkpoint"
    return TrainResult(
        run=run.path,
        checkpoint=checkpoint,
        steps=state.step,
        samples=samples,
        not_trained=length.not_trained,
        unreadable=state.bad.count,
        seconds=state.seconds,
        samples_per_second=samples / state.seconds,
        data_wait=state.waited / state.seconds,
        final_loss=loss,
        finished_before=finished_before,
        overfit=verdict(overfit, loss) if overfit else None,
    )


def _last_loss(run: RunDirectory) -> float:
    losses = (line.get("loss") for line in reversed(run.metrics.read()))
    return next((each for each in losses if each is not None), math.nan)
