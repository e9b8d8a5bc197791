"""Writing a run's checkpoints and continuing from one."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from clipkit.errors import CheckpointError, ClipkitError, TrainError, tell
from clipkit.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from clipkit.model.clip import Clip
from clipkit.model.weights import stored_config
from clipkit.train.background import Background
from clipkit.train.distributed import World
from clipkit.train.length import RunLength
from clipkit.train.optimizer import load_optimizer
from clipkit.train.precision import load_scaler
from clipkit.train.run_directory import RunDirectory
from clipkit.train.same_run import check_not_beyond, check_same_run
from clipkit.train.snapshot import Snapshot
from clipkit.train.state import TrainState, random_states, set_random_states


class CheckpointWriter:
    """Writes the checkpoints of one run while it goes on. `newest` is the last one that is whole on disk.

    A context, at whose end nothing is being written any more. `before` is called before a checkpoint gets its
    name: what the run tells of the steps before it must be on disk by then.
    """

    def __init__(
        self,
        run: RunDirectory,
        model: Clip,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        length: RunLength,
        settings: dict[str, Any],
        world: World,
    ):
        self.run = run
        self.model = model
        self.optimizer = optimizer
        self.scaler = scaler
        self.settings = settings
        self.world = world
        self.newest: Path | None = None
        self.saved_step = 0
        self.model_config = model.config.model_dump(mode="json")
        self.length = length
        self._saved_at = time.monotonic()
        self._background = Background()
        self._snapshot = Snapshot(page_locked=world.device.type == "cuda")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._background.wait()
        except ClipkitError as failure:
            if error is None:
                raise
            tell(f"clipkit: {failure}")  # the command's last line is that of `error`

    @property
    def minutes(self) -> float:
        """Minutes since the last checkpoint was begun."""
        return (time.monotonic() - self._saved_at) / 60

    def save(self, state: TrainState, before: Callable[[], None]) -> None:
        """Begin the checkpoint after `state.step` steps: epoch_N.pt if it closes epoch N, else step_N.pt.

        All processes call it together; the first one copies what the file is to hold, which a thread then
        writes. One that is still being written is waited for. Raises TrainError for a weight that is not
        finite, and for a disk that took no more of the one before.
        """
        weights = self.model.state_dict()
        if not _all_finite(weights):
            raise TrainError(self.not_finite(f"weights are not finite after step {state.step}"))
        epoch = self.length.epochs_done(state.step)
        name = f"epoch_{epoch}.pt" if self.length.closes_epoch(state.step) else f"step_{state.step}.pt"
        path = self.run.checkpoints / name
        record, random = state.as_record(self.world), random_states(self.world)
        if self.world.is_first:
            own, beside = self.parts(weights)
            checkpoint = Checkpoint(
                epoch=epoch,
                name=self.run.name,
                state_dict=own,
                optimizer=self.optimizer.state_dict(),
                step=state.step,
                position=state.step * self.length.batch_size,
                scaler=self.scaler.state_dict() or None,
                rng=random,
                model_config=self.model_config,
                train_config=self.settings,
                extra={"progress": record, **beside},
            )
            self._background.wait()  # the memory of its copy is used again
            copied = Checkpoint(**self._snapshot.of(vars(checkpoint)))
            self._background.start(lambda: self._write(path, copied, before))
        else:
            self.newest = path
        self.saved_step, self._saved_at = state.step, time.monotonic()

    def parts(self, weights: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return what a checkpoint holds as the CLIP's own weights, and what stands beside them."""
        return weights, {}

    def load(self, checkpoint: Checkpoint) -> None:
        """Give the model the weights that `parts` were made of."""
        self.model.load_state_dict(checkpoint.state_dict)

    def _write(self, path: Path, checkpoint: Checkpoint, before: Callable[[], None]) -> None:
        try:
            before()
            save_checkpoint(path, checkpoint)
            self.run.set_latest(path, keep=self.settings["keep"], length=self.length)
        except (OSError, CheckpointError) as error:  # the latter when it is read for a check
            found = error if isinstance(error, OSError) else error.__cause__
            why = found.strerror if isinstance(found, OSError) else error
            raise TrainError(f"{path}: the checkpoint cannot be written, {why}; {self._kept()}") from error
        self.newest = path

    def _kept(self) -> str:
        if self.newest is None:
            return "there is none yet"
        return f"{self.newest} is whole" if self.newest.exists() else f"{self.newest} is gone too"

    def look(self) -> None:
        """Raise TrainError if a checkpoint could not be written, as far as that is known by now."""
        self._background.look()

    def wait(self) -> None:
        """Wait until all that was begun is on disk. Raises TrainError for a disk that takes no more."""
        self._background.wait()

    def written(self, step: int) -> Path | None:
        """Return the checkpoint after `step` steps once it is on disk, None if that is not the last one."""
        if self.saved_step != step:
            return None
        self.wait()
        return self.newest

    def not_finite(self, found: str) -> str:
        """Return the line for a run that diverged, with the checkpoint that is still good."""
        self.wait()
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
        network = stored_config(checkpoint.model_config, path).model_dump(mode="json")
        stored = {**checkpoint.train_config, "network": network}
        check_same_run(path, stored, {**writer.settings, "network": writer.model_config})
        check_not_beyond(path, checkpoint.step, writer.length)
        state = TrainState.from_record(checkpoint.step, checkpoint.extra["progress"], writer.world)
        writer.load(checkpoint)
        load_optimizer(writer.optimizer, checkpoint.optimizer or {})
        load_scaler(writer.scaler, checkpoint.scaler)
        set_random_states(checkpoint.rng or {}, writer.world)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        found = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: expected a checkpoint that this run wrote, found {found}") from error
    writer.newest, writer.saved_step = path, checkpoint.step
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
