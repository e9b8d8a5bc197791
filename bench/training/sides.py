"""One training run as a command of either side, with the same settings, and what its log says afterwards."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stream.peers import side_python
from stream.sides import tars
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clipkit.model.config import ClipConfig
from clipkit.model.formats.open_clip import to_json

SIDES = ("clipkit", "open_clip")
_PROGRAM = Path(__file__).with_name("program.py")
_RUN = "run"
_ITS_BEST_ON_A_GPU = (
    *("--device", "cuda", "--precision", "amp_bf16", "--torchcompile"),
    *("--local-loss", "--gather-with-grad"),
)


@dataclass(frozen=True)
class Training:
    """What both sides are told. OpenCLIP's epochs are of whole batches; clipkit gets as many samples."""

    model: ClipConfig
    dataset: Path
    batches: int
    """of an epoch, a multiple of `workers`"""
    batch_size: int
    workers: int
    epochs: int = 1
    lr: float = 5e-4
    warmup: int = 0
    seed: int = 0
    crop_scale: tuple[float, float] = (0.9, 1.0)
    log_every: int = 1
    on_gpu: bool = False
    """bf16 and a compiled network, on one GPU; else float32 on the CPU"""
    eager: bool = False
    """clipkit's is not compiled there"""

    @property
    def samples(self) -> int:
        """Samples of the whole run."""
        return self.epochs * self.batches * self.batch_size


class Stamp(NamedTuple):
    """A line of a run's log: its step, the loss, and when it was written, in seconds since 1970."""

    step: int
    loss: float
    time: float


def command(side: str, training: Training, folder: Path, build: Path) -> list[str]:
    """Return the command that trains `side` into the new folder `folder`; its Python lies in `build`."""
    python = side_python(side, build)
    if python is None:
        raise SystemExit(f"{side}: its packages cannot be installed")
    folder.mkdir(parents=True)
    model = folder / f"{training.model.file_name}.json"
    model.write_text(json.dumps(to_json(training.model)))
    words = {"clipkit": _clipkit, "open_clip": _open_clip}[side](training, folder)
    return [str(word) for word in (python, _PROGRAM, side, model, *words)]


def _clipkit(training: Training, folder: Path) -> list[object]:
    return [
        *("--shards", training.dataset, "--runs", folder, "--name", _RUN, "--model", training.model.name),
        *("--batch-size", training.batch_size, "--samples-seen", training.samples, "--seed", training.seed),
        *("--lr", training.lr, "--warmup", training.warmup, "--crop-scale", *training.crop_scale),
        *("--workers", training.workers, "--log-every", training.log_every, "--keep", 1),
        *(("--precision", "bf16", "--processes", 1) if training.on_gpu else ()),
        *(("--compile",) if training.on_gpu and not training.eager else ()),
    ]


def _open_clip(training: Training, folder: Path) -> list[object]:
    return [
        *("--train-data", tars(training.dataset), "--dataset-type", "webdataset"),
        *("--train-num-samples", training.batches * training.batch_size, "--epochs", training.epochs),
        *("--logs", folder, "--name", _RUN, "--model", training.model.file_name),
        *("--batch-size", training.batch_size, "--seed", training.seed),
        *("--lr", training.lr, "--warmup", training.warmup, "--wd", 0.2),
        *("--aug-cfg", f"scale={training.crop_scale}".replace(" ", "")),
        *("--workers", training.workers, "--log-every-n-steps", training.log_every),
        *("--report-to", "tensorboard", "--save-frequency", training.epochs),
        *(_ITS_BEST_ON_A_GPU if training.on_gpu else ("--device", "cpu", "--precision", "fp32")),
    ]


def log(side: str, folder: Path) -> list[Stamp]:
    """Return the lines that the run in `folder` wrote for TensorBoard, as both sides do."""
    name = {"clipkit": "loss", "open_clip": "train/loss"}[side]
    return [Stamp(event.step, event.value, event.wall_time) for event in _events(folder).Scalars(name)]


def data_waits(side: str, folder: Path) -> list[float]:
    """Return the share of time that the trainer waited for data, in each line of its log."""
    events = _events(folder)
    if side == "clipkit":
        return [event.value for event in events.Scalars("data_wait")]
    data, batch = (events.Scalars(f"train/{name}_time") for name in ("data", "batch"))
    return [one.value / whole.value for one, whole in zip(data, batch, strict=True)]


def _events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / _RUN / "tensorboard"), {"scalars": 0}).Reload()


def last_checkpoint(side: str, training: Training, folder: Path) -> Path:
    """Return the checkpoint at the run's end."""
    name = {"clipkit": "latest", "open_clip": f"epoch_{training.epochs}.pt"}[side]
    return folder / _RUN / "checkpoints" / name
