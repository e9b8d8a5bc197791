"""Writing a run's checkpoints and continuing from one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipkit.differences import differences
from clipkit.errors import CheckpointError, TrainError
from clipkit.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from clipkit.model.clip import Clip
from clipkit.train.config import RunLength
from clipkit.train.distributed import World
from clipkit.train.optimizer import load_optimizer
from clipkit.train.run_directory import RunDirectory
from clipkit.train.state import FREE_SETTINGS, TrainState, random_states, set_random_states


@dataclass
class CheckpointWriter:
    """Writes the checkpoints of one run; `newest` is the last one on disk."""

    run: RunDirectory
    model: Clip
    optimizer: torch.optim.Optimizer
    length: RunLength
    settings: dict[str, Any]
    world: World
    newest: Path | None = None
    written_step: int = 0

    def write(self, state: TrainState) -> None:
        """Write the checkpoint after `state.step` steps: epoch_N.pt if it closes epoch N, else step_N.pt.

        All processes call it together; the first one writes. Raises TrainError for a weight that is not
        finite and for a disk that takes no more; what was written before stays whole.
        """
        weights = self.model.state_dict()
        if not _all_finite(weights):
            raise TrainError(self.not_finite(f"weights are not finite after step {state.step}"))
        epoch = self.length.epochs_done(state.step)
        name = f"epoch_{epoch}.pt" if self.length.closes_epoch(state.step) else f"step_{state.step}.pt"
        path = self.run.checkpoints / name
        record, random = state.as_record(self.world), random_states(self.world)
        if self.world.is_first:
            checkpoint = Checkpoint(
                epoch=epoch,
                name=self.run.name,
                state_dict=weights,
                optimizer=self.optimizer.state_dict(),
                step=state.step,
                position=state.step * self.length.batch_size,
                rng=random,
                model_config=self.model.config.model_dump(mode="json"),
                train_config=self.settings,
                extra={"progress": record},
            )
            try:
                save_checkpoint(path, checkpoint)
                self.run.set_latest(path, keep=self.settings["keep"], length=self.length)
            except OSError as error:
                kept = f"{self.newest} is whole" if self.newest else "there is none yet"
                raise TrainError(
                    f"{path}: the checkpoint cannot be written, {error.strerror}; {kept}"
                ) from error
        self.world.barrier()
        self.newest, self.written_step = path, state.step

    def not_finite(self, found: str) -> str:
        """Return the line for a run that diverged, with the checkpoint that is still good."""
        good = f"the last good checkpoint is {self.newest}" if self.newest else "there is no checkpoint yet"
        return f"{found}; {good}: start a new run with a lower --lr, a longer --warmup or with --grad-clip"


def restore(path: Path, writer: CheckpointWriter) -> TrainState:
    """Load weights, optimizer and random states from the checkpoint at `path`; return where the run stands.

    Raises CheckpointError for a damaged file, TrainError for one of other settings.
    """
    choose = writer.run.command_to_choose
    with naming_older(path, lambda older: f"the same command goes on from it after {choose(older)}"):
        checkpoint = load_checkpoint(path)
    try:
        check_same_run(path, checkpoint.train_config, writer.settings)
        state = TrainState.from_record(checkpoint.step, checkpoint.extra["progress"], writer.world)
        writer.model.load_state_dict(checkpoint.state_dict)
        load_optimizer(writer.optimizer, checkpoint.optimizer or {})
        set_random_states(checkpoint.rng or {}, writer.world)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        found = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: expected a checkpoint that this run wrote, found {found}") from error
    writer.newest, writer.written_step = path, checkpoint.step
    return state


@contextmanager
def naming_older(newest: Path, remedy: Callable[[Path], str]) -> Iterator[None]:
    """Add to a CheckpointError about `newest` which checkpoint of its run is older and can be read, if any.

    `remedy` says how to use that one. What is wrong with a file that can be read is left as it is.
    """
    try:
        yield
    except CheckpointError as error:
        older = None if _is_whole(newest) else _older_whole(newest)
        if older is None:
            raise
        raise CheckpointError(f"{error}; {older} is older and whole: {remedy(older)}") from error


def check_same_run(path: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise TrainError with the differences if the run at `path`, with settings `stored`, is another one."""
    different = differences(stored, wanted, apart_from=FREE_SETTINGS)
    if different:
        raise TrainError(
            f"{path}: cannot be continued, since {'; '.join(different)}: "
            "give the same settings, or another --name"
        )


def _older_whole(newest: Path) -> Path | None:
    run = RunDirectory(newest.parent.parent)
    if newest.parent != run.checkpoints:  # a file that is in no run
        return None
    with suppress(TrainError, OSError):  # settings that cannot be read tell nothing
        return next(filter(_is_whole, run.older(newest)), None)
    return None


def _is_whole(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _all_finite(weights: dict[str, torch.Tensor]) -> bool:
    finite = [each.isfinite().all() for each in weights.values() if each.is_floating_point()]
    return bool(torch.stack(finite).all())
