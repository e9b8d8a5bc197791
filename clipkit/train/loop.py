"""The loop over the stream of batches, and what happens between steps: lines, checkpoints, evaluations."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clipkit.errors import ClipkitError, TrainError
from clipkit.shards.loader import Batch
from clipkit.train.bad_samples import RunBadCount
from clipkit.train.checkpoints import CheckpointWriter
from clipkit.train.config import RunLength, TrainConfig, evaluation_due
from clipkit.train.evaluating import Evaluator, evaluate
from clipkit.train.interrupt import Interruption, TrainInterrupted
from clipkit.train.logs import RunLog
from clipkit.train.state import TrainState
from clipkit.train.step import TrainStep


@dataclass
class Loop:
    """Trains a run from `state` to the end of `length`. `log` is None in all processes but the first."""

    config: TrainConfig
    length: RunLength
    state: TrainState
    bad: RunBadCount
    step: TrainStep
    checkpoints: CheckpointWriter
    evaluators: Sequence[Evaluator]
    log: RunLog | None
    interruption: Interruption

    def __post_init__(self) -> None:
        self._line_start = replace(self.state)
        self._clock = time.perf_counter()

    def train(self, stream: Iterator[Batch]) -> None:
        """Train on `stream`, the batches from the state's position to the end of the run.

        Raises TrainInterrupted after a signal, with a checkpoint of the last step on disk; TrainError if the
        loss is not finite; and what the stream and the count of what cannot be read raise.
        """
        self._evaluate_if_due()
        self._stop_if_asked()
        while (batch := self._next(stream)) is not None:
            line_due = self._line_due(self.state.step + 1)
            loss, norm = self.step(batch, self.state.step, with_norm=line_due)
            self.state.add_loss(loss)
            if line_due and norm is not None:
                self._write_line(norm)
            self._save_if_due()
            self._evaluate_if_due()
            self._stop_if_asked()

    def _next(self, stream: Iterator[Batch]) -> Batch | None:
        self._lap()
        alone = self.step.world.size == 1  # others are at some place where they wait for this process
        try:
            with self.interruption.ending_waits() if alone else nullcontext():
                batch = next(stream, None)
        except (ClipkitError, KeyboardInterrupt):
            # Ctrl-C reaches the loader's processes too and may end them before the batch is made.
            if alone:
                self._stop_if_asked()
            raise
        self.state.waited += self._lap()
        return batch

    def _lap(self) -> float:
        now = time.perf_counter()
        passed, self._clock = now - self._clock, now
        self.state.seconds += passed
        return passed

    def _line_due(self, step: int) -> bool:
        return step % self.config.log_every == 0 or step == self.length.steps

    def _write_line(self, norm: Tensor) -> None:
        state, world = self.state, self.step.world
        loss_sum = torch.as_tensor(state.loss_sum, dtype=torch.float32, device=world.device)
        loss = world.mean(loss_sum).item() / state.loss_steps  # here alone the host waits for the device
        if not math.isfinite(loss):
            raise TrainError(self.checkpoints.not_finite(f"the loss is {loss} at step {state.step}"))
        self._lap()
        seconds = state.seconds - self._line_start.seconds
        if self.log is not None:
            figures = {
                "loss": loss,
                "lr": self.step.schedule(state.step - 1),
                "logit_scale": self.step.model.logit_scale.exp().item(),
                "grad_norm": norm.item(),
                "samples_per_second": (state.step - self._line_start.step) * self.length.batch_size / seconds,
                "data_wait": (state.waited - self._line_start.waited) / seconds,
            }
            self.log.train(state.step, figures)
        state.loss_sum, state.loss_steps = 0.0, 0
        self._line_start = replace(state)

    def _save_if_due(self) -> None:
        step, every = self.state.step, self.config.save_every
        before, now = (step - 1) * self.length.batch_size, step * self.length.batch_size
        crossed = every is not None and now // every > before // every
        if crossed or self._ends_part(step):
            self._save()

    def _ends_part(self, step: int) -> bool:
        return self.length.closes_epoch(step) or step == self.length.steps

    def _save(self) -> None:
        if self.log is not None:
            self.log.flush()
        self.bad.share(*self.step.world.largest(self.bad.waiting))
        self._lap()
        self.checkpoints.write(self.state)

    def _evaluate_if_due(self) -> None:
        step, world = self.state.step, self.step.world
        if not self.evaluators or not evaluation_due(self.config, self.length, step):
            return
        self._lap()
        done = self.log is not None and self.log.is_evaluated(step)
        if not world.largest(done)[0]:
            figures = evaluate(self.step.model, self.evaluators, world, self.interruption)
            if figures is not None and self.log is not None:
                newest = self.checkpoints.newest if self.checkpoints.written_step == step else None
                self.log.evaluation(step, figures, newest.name if newest else None)
        self._clock = time.perf_counter()  # evaluation is not training time

    def _stop_if_asked(self) -> None:
        number, waiting = self.step.world.largest(self.interruption.number, self.bad.waiting)
        self.bad.share(waiting)
        if not number:
            return
        if self.state.step and self.checkpoints.written_step != self.state.step:
            self._save()
        kept = (
            f"{self.checkpoints.newest} is written" if self.checkpoints.newest else "nothing was trained yet"
        )
        raise TrainInterrupted(
            f"stopped after step {self.state.step}; {kept}: run the same command to go on", number
        )
