"""What a run tells: lines in metrics.jsonl and results.jsonl, its boards, out.log, and the display."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from clipkit.progress import Progress
from clipkit.train.boards import Board, TensorBoard, WeightsAndBiases
from clipkit.train.length import RunLength
from clipkit.train.run_directory import RunDirectory
from clipkit.train.state import TrainState


class RunLog:
    """Writes a run's figures everywhere that they go. Only the first process has one.

    It begins where `state` stands: later lines of a killed sitting are removed from the files, marked as
    replaced in TensorBoard, and not repeated in W&B. `settings` are the run's, as `run_settings` has them.
    """

    def __init__(
        self,
        run: RunDirectory,
        length: RunLength,
        state: TrainState,
        display: Progress,
        settings: dict[str, Any],
    ):
        self._run = run
        self._length = length
        self._display = display
        self._note = ""
        run.cut_back(state.step)
        if state.step:
            self.say(f"{run.name} goes on after step {state.step:,} of {length.steps:,}")
        else:
            run.note(f"{run.name} begins: {length.steps:,} steps of {length.batch_size:,} samples")
        self._boards: list[Board] = []
        if settings["wandb"]:  # the first, for it may be refused: no other is open then
            board = WeightsAndBiases(run, settings["wandb_project"], settings)
            self._boards.append(board)
            self.say(f"W&B: {board.place}")
        self._boards.append(TensorBoard(run, state.step))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for board in self._boards:
            board.close(failed=error is not None)

    def train(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures of the steps up to `step`."""
        self._run.metrics.append({**self._place(step), **figures})
        self._to_boards(step, figures)
        self._note = (
            f"loss {figures['loss']:.3f}, {figures['samples_per_second']:,.0f} samples/s, "
            f"{figures['data_wait']:.0%} waiting for data"
        )
        self.progress(step)
        self._run.note(f"step {step:,}: {self._note}")

    def progress(self, step: int) -> None:
        """Show that `step` steps are trained."""
        self._display.update(step * self._length.batch_size, note=self._note)

    def evaluation(self, step: int, figures: Mapping[str, float], checkpoint: str | None) -> None:
        """Log the figures of an evaluation after `step` steps, of a checkpoint if one was written."""
        self._run.add_evaluation({**self._place(step), **figures}, checkpoint)
        self._to_boards(step, figures)
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
        for board in self._boards:
            board.flush()

    def _place(self, step: int) -> dict[str, float]:
        samples = step * self._length.batch_size
        return {"step": step, "samples": samples, "epoch": samples / self._length.epoch_samples}

    def _to_boards(self, step: int, figures: Mapping[str, float]) -> None:
        for board in self._boards:
            board.add(self._place(step), figures)
