"""What a checkpoint costs the training that goes on meanwhile.

    python bench/checkpoints.py [--model RN50] [--samples 8] [--runs 5] [--folder DIR] [--device cpu|cuda]

One process trains a model on one batch of random pictures and texts, and writes checkpoints of it into DIR.

stall    seconds in which no step is trained: the copy of weights and optimizer state
slowed   seconds by which the steps during the write take longer than the others, summed up over one write
whole    a checkpoint that is waited for, which is the stall without a thread
share    stall + slowed of the time between two checkpoints of `clipkit train`'s defaults: 500,000 samples or
         30 minutes, whichever is first, at the speed measured here without a checkpoint
memory   resident memory before the first checkpoint, and after each two

Wall times, and CPU times of the training thread (its stall on a machine that does other things); medians.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from networks import training

from clipkit.model.clip import build
from clipkit.model.config import named_config
from clipkit.model.memory_layout import fast_layout
from clipkit.train.checkpoints import CheckpointWriter
from clipkit.train.config import TrainConfig
from clipkit.train.distributed import World
from clipkit.train.length import RunLength
from clipkit.train.optimizer import AdamSettings, make_optimizer
from clipkit.train.run_directory import RunDirectory
from clipkit.train.state import TrainState


class Seconds(NamedTuple):
    """Of the wall's clock, and of the CPU's for the training thread."""

    wall: float
    own: float


def timed(work: Callable[..., object], *words: object) -> Seconds:
    wall, own = time.perf_counter(), time.thread_time()
    work(*words)
    return Seconds(time.perf_counter() - wall, time.thread_time() - own)


def total(found: list[Seconds]) -> Seconds:
    return Seconds(sum(each.wall for each in found), sum(each.own for each in found))


def median(found: list[Seconds]) -> Seconds:
    return Seconds(*(statistics.median(clock) for clock in zip(*found, strict=True)))


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Costs:
    """Trains and writes checkpoints; what that takes."""

    def __init__(self, step: Callable[[], object], writer: CheckpointWriter):
        self._step = step
        self._writer = writer
        self._number = 0
        self.idle = [timed(step) for _ in range(3)][1:]
        self.stalls: list[Seconds] = []
        self.slowed: list[Seconds] = []
        self.whole: list[Seconds] = []
        self.memory = [resident()]

    def measure(self) -> None:
        """Write one checkpoint in the background, and one that is waited for."""
        before, during = self._writer.newest, []
        self.stalls.append(timed(self._save))
        while self._writer.newest == before:
            self._writer.look()
            during.append(timed(self._step))
        self._writer.wait()
        alone = [timed(self._step) for _ in during]
        mine, theirs = total(during), total(alone)
        self.slowed.append(Seconds(mine.wall - theirs.wall, mine.own - theirs.own))
        self.idle += alone
        self.whole.append(timed(self._save_and_wait))
        self.memory.append(resident())

    def _save(self) -> None:
        self._number += 1
        self._writer.save(TrainState(self._number), before=lambda: None)

    def _save_and_wait(self) -> None:
        self._save()
        self._writer.wait()


def measured(model: str, samples: int, runs: int, folder: Path, device: str) -> Costs:
    clip = fast_layout(build(named_config(model), seed=0).to(device))
    optimizer = make_optimizer(clip, AdamSettings((0.9, 0.999), 1e-8, 0.2))
    run, length = RunDirectory(folder / "run"), RunLength(10**9, samples, 10**9)
    settings = TrainConfig(model=model, keep=2).model_dump(mode="json")
    world, scaler = World(0, 1, torch.device(device)), torch.amp.GradScaler(device, enabled=False)
    with run.opened(), CheckpointWriter(run, clip, optimizer, scaler, length, settings, world) as writer:
        costs = Costs(training(clip, samples, optimizer), writer)
        for _ in range(runs):
            costs.measure()
        size = max(each.stat().st_size for each in run.checkpoints.glob("*.pt"))
        print(f"{model} on {device}, {samples} samples a step, checkpoints of {size / 1e6:,.0f} MB\n")
    return costs


def show(costs: Costs, samples: int) -> None:
    again = costs.stalls[1:] or costs.stalls
    print("| | wall | CPU of the training thread |\n|---|---|---|")
    rows = {"step": costs.idle, "stall": again, "slowed": costs.slowed, "whole": costs.whole}
    for name, found in rows.items():
        print(f"| {name} | {median(found).wall:.3f} s | {median(found).own:.3f} s |")
    print(f"\nfirst stall, in which the memory is taken: {costs.stalls[0].wall:.3f} s")
    rate = samples / median(costs.idle).wall
    between = min(500_000 / rate, 30 * 60)
    stalled = median(again).wall + max(0.0, median(costs.slowed).wall)
    print(
        f"a checkpoint every {between:,.0f} s at {rate:,.1f} samples/s: {stalled / between:.3%} of the time, "
        f"{median(costs.whole).wall / between:.3%} without a thread"
    )
    print("memory: " + " → ".join(f"{each / 1e6:,.0f}" for each in costs.memory) + " MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="RN50")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        costs = measured(options.model, options.samples, options.runs, Path(folder), options.device)
    show(costs, options.samples)


if __name__ == "__main__":
    main()
