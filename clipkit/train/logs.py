"""What a run tells: lines in metrics.jsonl and results.jsonl, TensorBoard, and the display."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from clipkit import atomic
from clipkit.progress import Progress
from clipkit.train.config import RunLength
from clipkit.train.run_directory import RunDirectory
from clipkit.train.state import TrainState


class RunLog:
    """Writes a run's figures everywhere that they go. Only the first process has one.

    It begins where `state` stands: later lines of a killed sitting are removed from the files, and marked as
    replaced in TensorBoard. That one may lack what came after the checkpoint at the same step: it is told all
    of that step again.
    """

    def __init__(self, run: RunDirectory, length: RunLength, state: TrainState, display: Progress):
        self._run = run
        self._length = length
        self._display = display
        run.cut_back(state.step)
        if state.step:
            self.say(f"{run.name} goes on after step {state.step:,} of {length.steps:,}")
        else:
            run.note(f"{run.name} begins: {length.steps:,} steps of {length.batch_size:,} samples")
        _wait_for_a_new_second(run.tensorboard)
        self._board = SummaryWriter(run.tensorboard, purge_step=state.step)
        for figures in run.figures_of(state.step):
            self._to_board(state.step, figures)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._board.close()

    def train(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures of the steps up to `step`."""
        self._run.metrics.append({**self._place(step), **figures})
        self._to_board(step, figures)
        note = f"loss {figures['loss']:.3f}, {figures['samples_per_second']:,.0f} samples/s"
        self._display.update(step * self._length.batch_size, note=note)
        self._run.note(f"step {step:,}: {note}")

    def evaluation(self, step: int, figures: Mapping[str, float], checkpoint: str | None) -> None:
        """Log the figures of an evaluation after `step` steps, of a checkpoint if one was written."""
        self._run.add_evaluation({**self._place(step), **figures}, checkpoint)
        self._to_board(step, figures)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self.say(f"step {step:,}: {shown}")

    def is_evaluated(self, step: int) -> bool:
        """Whether the evaluation after `step` steps is in the files already."""
        return self._run.is_evaluated(step)

    def say(self, line: str) -> None:
        """Tell the user, and out.log."""
        self._display.say(line)
        self._run.note(line)

    def flush(self) -> None:
        """Force everything written so far onto the disk, before a checkpoint makes it the past."""
        self._run.metrics.flush()
        self._run.results.flush()
        self._board.flush()
        for events in self._run.tensorboard.iterdir():
            atomic.flush(events)

    def _place(self, step: int) -> dict[str, float]:
        samples = step * self._length.batch_size
        return {"step": step, "samples": samples, "epoch": samples / self._length.epoch_samples}

    def _to_board(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)


def _wait_for_a_new_second(folder: Path) -> None:
    # TensorBoard reads event files in the order of the second in their names: a sitting that begins within
    # the second in which the last one began could be read before it.
    seconds = [int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*")]
    while seconds and 0 <= max(seconds) - int(time.time()) <= 1:
        time.sleep(0.02)
