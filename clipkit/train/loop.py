"""The loop over the stream of batches, and what happens between steps: lines, checkpoints, evaluations."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from torch import Tensor

from clipkit.errors import ClipkitError, DatasetError, TrainError
from clipkit.processes import peak_memory
from clipkit.shards.loader import Batch
from clipkit.train.bad_samples import RunBadCount
from clipkit.train.bottleneck import Bottleneck, DeviceQueue
from clipkit.train.checkpoints import CheckpointWriter
from clipkit.train.config import TrainConfig
from clipkit.train.distributed import ProcessLostError
from clipkit.train.evaluating import Evaluator, evaluate
from clipkit.train.interrupt import Interruption, TrainInterrupted
from clipkit.train.length import RunLength, evaluation_due
from clipkit.train.logs import RunLog
from clipkit.train.precision import MOST_SKIPPED
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
        self._queue = DeviceQueue(self.step.world.device)
        if self.log is not None:
            self._guards = self.step.guards(self.length.batch_size, self.log.say)
            self._bottleneck = Bottleneck(self.config.workers, self.log.say)

    def train(self, stream: Iterator[Batch]) -> None:
        """Train on `stream`, the batches from the state's position to the end of the run.

        Raises TrainInterrupted after a signal to any process, with a checkpoint of the last step on disk;
        TrainError if the loss is not finite or a checkpoint cannot be written; and, after a checkpoint of
        the last step, what the stream and the count of what cannot be read raise.
        """
        self._evaluate_if_due()
        while (batch := self._next(stream)) is not None:
            line_due = self._line_due(self.state.step + 1)
            if line_due and self.log is not None:
                self._guards.look(batch)
            figures = self.step(batch, self.state.step, with_norm=line_due)
            self._queue.mark()
            self.state.add_step(figures.loss, figures.skipped)
            self.bad.trained()
            if line_due and figures.norm is not None:
                self._write_line(figures.norm)
            elif self.log is not None:
                self.log.progress(self.state.step)
            self._save_if_due()
            self._evaluate_if_due()
        self.checkpoints.wait()

    def _next(self, stream: Iterator[Batch]) -> Batch | None:
        self._lap()
        batch, failure = None, None
        try:
            with self.interruption.ending_waits():
                batch = next(stream, None)
        except (ClipkitError, KeyboardInterrupt) as error:
            # What asks for an end may reach the loader's processes too, and end them first.
            if not self.interruption.number:
                if not isinstance(error, ClipkitError):
                    raise
                failure = error
        waited = self._lap()
        if self._queue.is_empty:  # else the device had something to do all the while
            self.state.waited += waited
        self._meet(failure)
        return batch

    def _meet(self, failure: ClipkitError | None) -> None:
        """Agree with the other processes on what none may do alone, before a step that all take part in.

        `failure` is why this process has no batch for it.
        """
        self.checkpoints.look()
        late = int(self.checkpoints.minutes >= self.config.save_minutes)
        number, waiting, late, failed = self.step.world.largest(
            self.interruption.number, self.bad.waiting, late, int(failure is not None)
        )
        try:
            self.bad.share(waiting)
        except DatasetError as error:  # in all processes alike
            failure, failed = failure or error, 1
        if failed and not number:
            self._fail(failure)
        if number or late:
            self._save()
        if number:
            self._stop(number)

    def _fail(self, failure: ClipkitError | None) -> NoReturn:
        """Save what was trained, and raise the `failure`, or that another process has one."""
        world, saved = self.step.world, ""
        try:
            self._save()
            self.checkpoints.wait()
            if self.checkpoints.newest:
                saved = f"; what was trained until then is in {self.checkpoints.newest}"
        except TrainError as error:
            saved = f"; {error}"
        world.barrier()
        if failure is None:
            raise ProcessLostError(
                f"process {world.rank} of {world.size}: another one has ended: mend what its last line says, "
                "and run the same command again"
            )
        raise type(failure)(f"{failure}{saved}") from failure

    def _stop(self, number: int) -> None:
        self.checkpoints.wait()
        self.step.world.barrier()
        newest = self.checkpoints.newest
        kept = f"{newest} is written" if newest else "nothing was trained yet"
        raise TrainInterrupted(
            f"stopped after step {self.state.step}; {kept}: run the same command to go on", number
        )

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
        loss = world.mean(loss_sum).item()  # here alone the host waits for the device
        steps, skipped_in_row = int(state.loss_steps), int(state.skipped_in_row)
        loss = loss / steps if steps else math.nan  # fp16 may have skipped all of them
        if not math.isfinite(loss) and not skipped_in_row:
            raise TrainError(self.checkpoints.not_finite(f"the loss is {loss} at step {state.step}"))
        if skipped_in_row >= MOST_SKIPPED:
            found = f"the gradients of the last {skipped_in_row} steps, to step {state.step}, are not finite"
            raise TrainError(self.checkpoints.not_finite(found))
        self._lap()
        if self.log is not None:
            self._log_line(self.log, loss, norm.item())
        state.loss_sum, state.loss_steps = 0.0, 0
        self._line_start = replace(state)

    def _log_line(self, log: RunLog, loss: float, norm: float) -> None:
        state, start = self.state, self._line_start
        seconds, waited = state.seconds - start.seconds, state.waited - start.waited
        figures = {
            "loss": loss,
            "lr": self.step.schedule(state.step - 1),
            "logit_scale": self.step.model.logit_scale.exp().item(),
            "grad_norm": norm,
            "samples_per_second": (state.step - start.step) * self.length.batch_size / seconds,
            "data_wait": waited / seconds,
            "peak_memory_mb": peak_memory() / 1e6,
        }
        if self.step.scaler.is_enabled():
            figures |= {"loss_scale": self.step.scaler.get_scale(), "skipped_steps": int(state.skipped)}
        if self.step.world.device.type == "cuda":
            figures["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
        log.train(state.step, figures)
        self._guards.add_loss(state.step, loss)
        self._bottleneck.add(seconds, waited)

    def _save_if_due(self) -> None:
        step, every = self.state.step, self.config.save_every
        if (every is not None and self.length.crosses(step, every)) or self._ends_part(step):
            self._save()

    def _ends_part(self, step: int) -> bool:
        return self.length.closes_epoch(step) or step == self.length.steps

    def _save(self) -> None:
        """Begin the checkpoint of the last step, unless there is one."""
        if self.checkpoints.saved_step == self.state.step:
            return
        try:
            self.bad.share(*self.step.world.largest(self.bad.waiting))
        except DatasetError as error:  # in all processes alike
            self._fail(error)
        self._lap()
        self.checkpoints.save(self.state, before=self.log.flush if self.log else lambda: None)

    def _evaluate_if_due(self) -> None:
        step, world = self.state.step, self.step.world
        if not self.evaluators or not evaluation_due(self.config, self.length, step):
            return
        self._lap()
        done = self.log is not None and self.log.is_evaluated(step)
        if not world.largest(done)[0]:
            say = self.log.say if self.log else None
            figures = evaluate(self.step.model, self.evaluators, world, self.interruption, say)
            if figures is not None and self.log is not None:
                newest = self.checkpoints.written(step)
                self.log.evaluation(step, figures, newest.name if newest else None)
        self._clock = time.perf_counter()  # evaluation is not training time
