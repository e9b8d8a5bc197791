"""A training process that test_run kills, or that kills itself: DATASET RUN CONFIG PLACE COUNT.

Its last act is the COUNTth call at PLACE: `line` (a line of metrics is written), `fsync` (within the commit
of a file), `evaluator` (in the midst of an evaluation), `none`.
"""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from clipkit.model.clip import Clip
from clipkit.progress import Progress
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.evaluating import Together
from clipkit.train.interrupt import TrainInterrupted
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory

DATASET, RUN, CONFIG, PLACE, COUNT = sys.argv[1:]  # loader processes import this file with the same ones


class Fuse:
    left = int(COUNT)

    def at(self, place: str) -> None:
        self.left -= place == PLACE
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


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `… &` ignores it
    setattr(os, "fsync", fused_fsync)  # noqa: B010
    torch.set_num_threads(1)
    config = TrainConfig.model_validate_json(CONFIG)
    try:
        train(config, ShardSet(Path(DATASET)), RunDirectory(Path(RUN)), [fused_scale], FusedProgress)
    except TrainInterrupted as error:
        print(error)
        sys.exit(error.exit_code)
