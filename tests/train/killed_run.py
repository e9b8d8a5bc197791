"""A training process that tests kill, or that kills itself: DATASET RUN CONFIG PLACE COUNT.

Its last act is the COUNTth call at PLACE: `batch` (one is taken), `line` (one of metrics is written), `fsync`
(within the commit of a file), `evaluator` (in the midst of an evaluation), `any` of these, `none`.

Under torchrun it is each of the run's processes. RUN.RANK.samples gets a line for each batch that is taken:
the 0-based step, the number of processes, and the samples' positions, each with a digest of its numbers.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from clipkit.model.clip import Clip
from clipkit.progress import Progress
from clipkit.shards.loader import Batch, batches
from clipkit.shards.shard_set import ShardSet
from clipkit.train import run as train_run
from clipkit.train.config import TrainConfig
from clipkit.train.evaluating import Together
from clipkit.train.interrupt import TrainInterrupted
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory

DATASET, RUN, CONFIG, PLACE, COUNT = sys.argv[1:]  # loader processes import this file with the same ones


class Fuse:
    left = int(COUNT)

    def at(self, place: str) -> None:
        self.left -= PLACE in (place, "any")
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


FUSE = Fuse()
FSYNC = os.fsync


class FusedProgress(Progress):
    def __init__(self, samples: int):
        super().__init__("train", samples, "samples")

    def update(self, done: int, note: str = "", figures: Mapping[str, Any] | None = None) -> None:
        FUSE.at("line")


def fused_fsync(descriptor: Any) -> None:
    FUSE.at("fsync")
    FSYNC(descriptor)


def fused_scale(model: Clip, together: Together) -> Iterator[tuple[str, float]]:
    FUSE.at("evaluator")
    yield "scale", model.logit_scale.item()


def recorded(*words: Any, **named: Any) -> Generator[Batch]:
    step = named["position"] // named["batch_size"]
    with Path(f"{RUN}.{named['rank']}.samples").open("a", buffering=1) as log:
        for number, batch in enumerate(batches(*words, **named), step):
            FUSE.at("batch")
            print(json.dumps([number, named["world_size"], samples(batch)]), file=log)
            yield batch


def samples(batch: Batch) -> list[tuple[int, str]]:
    return [
        (int(position), hashlib.sha256(image.numpy().tobytes() + tokens.numpy().tobytes()).hexdigest()[:16])
        for image, tokens, position in zip(*batch, strict=True)
    ]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `… &` ignores it
    setattr(os, "fsync", fused_fsync)  # noqa: B010
    setattr(train_run, "batches", recorded)  # noqa: B010
    torch.set_num_threads(1)
    config = TrainConfig.model_validate_json(CONFIG)
    try:
        train(config, ShardSet(Path(DATASET)), RunDirectory(Path(RUN)), [fused_scale], FusedProgress)
    except TrainInterrupted as error:
        print(error)
        sys.exit(error.exit_code)
