"""Where a run's figures go beside metrics.jsonl: TensorBoard, and Weights & Biases if it is asked for."""

import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from clipkit import atomic
from clipkit.errors import ConfigError, TrainError, install_extra
from clipkit.train.run_directory import RunDirectory

Figures = Mapping[str, float]

_ID_FILE = "wandb-id"


class Board(Protocol):
    """Somewhere to look at figures. `place` says where in the run they stand: step, samples, epoch."""

    def add(self, place: Figures, figures: Figures) -> None:
        """Show figures."""

    def flush(self) -> None:
        """Force what was added out of this process, as far as the place allows."""

    def close(self, failed: bool) -> None:
        """End the sitting."""


class TensorBoard:
    """Event files; what an earlier sitting wrote there from `step` on is marked as replaced.

    It may lack what came after the checkpoint at that step, and is told all of that step again.
    """

    def __init__(self, run: RunDirectory, step: int):
        self._folder = run.tensorboard
        _wait_for_a_new_second(self._folder)
        self._writer = SummaryWriter(self._folder, purge_step=step)
        for figures in run.figures_of(step):
            self.add({"step": step}, figures)

    def add(self, place: Figures, figures: Figures) -> None:
        """Show figures against steps."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, int(place["step"]))

    def flush(self) -> None:
        """Force what was added onto the disk."""
        self._writer.flush()
        for events in self._folder.iterdir():
            atomic.flush(events)

    def close(self, failed: bool) -> None:
        """Close the sitting's file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, the same one in all sittings: its id lies in the run's folder.

    A sitting first sends what W&B lacks of metrics.jsonl. W&B cannot take figures back: online it keeps those
    that a killed sitting sent beyond its checkpoint, and ignores their repetition. Offline each sitting
    makes a folder that holds the whole run, to be uploaded alone. Raises ConfigError without the package,
    TrainError if W&B is not to be had.
    """

    def __init__(self, run: RunDirectory, project: str, settings: dict[str, Any]):
        wandb = _imported()
        try:
            if not wandb.setup().settings._offline and not wandb.login(prompt=False):
                raise TrainError("W&B: no API key: run `wandb login`, or set WANDB_MODE=offline")
            self._run = wandb.init(
                project=project,
                id=_id(run.path / _ID_FILE),
                name=run.name,
                dir=run.path,
                config=settings,
                resume="allow",
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split())
            raise TrainError(
                f"W&B: {reason}: mend this, set WANDB_MODE=offline, or leave --wandb out"
            ) from error
        for line in run.metrics.read():
            if line.get("step", -1) >= self._run.starting_step:
                self.add(line, {})

    @property
    def place(self) -> str:
        """The run's address, or its folder if it is not sent anywhere now."""
        folder = Path(self._run.dir).parent
        return str(self._run.url or f"{folder}; upload it with `wandb sync {folder}`")

    def add(self, place: Figures, figures: Figures) -> None:
        """Send figures; those of one step are one row."""
        row = {**place, **figures}
        self._run.log({name: value for name, value in row.items() if value is not None}, step=row["step"])

    def flush(self) -> None:
        """Do nothing: W&B's own process sends, and what it loses the next sitting sends again."""

    def close(self, failed: bool) -> None:
        """End the sitting, once all is sent."""
        self._run.finish(exit_code=int(failed))


def _imported() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            f"--wandb: expected the extra wandb, found: {error}; {install_extra('wandb')}"
        ) from None
    return wandb


def _id(file: Path) -> str:
    if not file.exists():
        atomic.write_text(file, secrets.token_hex(8) + "\n")
    return file.read_text(encoding="utf-8").strip()


def _wait_for_a_new_second(folder: Path) -> None:
    # TensorBoard reads event files in the order of the second in their names: a sitting that begins within
    # the second in which the last one began could be read before it.
    seconds = [int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*")]
    while seconds and 0 <= max(seconds) - int(time.time()) <= 1:
        time.sleep(0.02)
