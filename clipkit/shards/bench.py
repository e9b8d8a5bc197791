"""How fast a dataset can be read for training here: each step alone, all with workers, and what limits it."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from clipkit.errors import DatasetError
from clipkit.processes import keep_freed_memory
from clipkit.shards.loader import Batch, Collator, Pixels, Tokenize, Transform, batches, device_copy_seconds
from clipkit.shards.mixture import Mixture, MixturePlan, Place
from clipkit.shards.shard_set import ShardSet
from clipkit.tables import table

_WARM_UP = 2  # batches of each worker
_AS_PROMISED = 0.7  # of what the steps alone promise: a whole slower than that has another cause

Made = TypeVar("Made")


class StagedTransform(Transform, Protocol):
    """A transform whose two parts can be timed: `augment(decode(image, key), key)` is all of it."""

    def decode(self, image: bytes, key: int) -> Any:
        """Decode what is needed of a picture."""

    def augment(self, decoded: Any, key: int) -> Pixels:
        """Make the sample's pixels of it."""


@dataclass(frozen=True)
class BenchResult:
    """Samples a second: of each step alone in one process, and of the whole with workers.

    Without a GPU there is no step `device_copy`. `bottleneck` names a step, or "workers" where the whole is
    much slower than the steps alone promise; `advice` says what to change.
    """

    steps: dict[str, float]
    whole: float
    workers: int
    batch_size: int
    cpus: int
    bottleneck: str
    advice: str

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return asdict(self)

    def lines(self) -> str:
        """Return the result as a table to read."""
        rows = [(name.replace("_", " "), f"{rate:,.0f} samples/s") for name, rate in self.steps.items()]
        rows += [(f"all, {self.workers} workers", f"{self.whole:,.0f} samples/s")]
        return table([*rows, ("limited by", self.bottleneck.replace("_", " ")), ("to do", self.advice)])


def bench(
    shard_set: ShardSet,
    *,
    batch_size: int,
    workers: int,
    steps: int,
    transform: StagedTransform,
    tokenize: Tokenize,
) -> BenchResult:
    """Measure `steps` batches in the order of training: the steps alone first, then others with workers.

    Samples that cannot be read are left out. Raises DatasetError as reading does, and if there is no other.
    """
    seconds, batch = _alone(shard_set, batch_size, steps, transform, tokenize)
    copied = device_copy_seconds(batch)
    if copied is not None:
        seconds["device_copy"] = copied / len(batch.positions_B)
    made = batches(
        shard_set,
        batch_size=batch_size,
        workers=workers,
        position=steps * batch_size,  # what the steps alone have read is in memory by now
        transform=transform,
        tokenize=tokenize,
        told=lambda bad, seen: None,
    )
    for _ in islice(made, _WARM_UP * max(1, workers)):
        pass
    begun = time.perf_counter()
    for _ in islice(made, steps):
        pass
    whole = steps * batch_size / (time.perf_counter() - begun)
    cpus = len(os.sched_getaffinity(0))
    bottleneck, advice = judged(seconds, whole, workers, cpus)
    rates = {name: 1 / each for name, each in seconds.items()}
    return BenchResult(rates, whole, workers, batch_size, cpus, bottleneck, advice)


def _alone(
    shard_set: ShardSet, batch_size: int, steps: int, transform: StagedTransform, tokenize: Tokenize
) -> tuple[dict[str, float], Batch]:
    """Seconds a sample by step, in this process, and the last batch."""
    keep_freed_memory()  # as workers do
    mixture = Mixture([shard_set])
    plan = MixturePlan([shard_set.sizes], mixture.shares, batch_size, seed=0)
    clock = _Clock()
    samples = 0
    for number in range(steps):
        collator = Collator(batch_size, tokenize)
        places = [
            place
            for place in plan.places(number, slice(None))
            if _made_of(shard_set, place, transform, collator, clock)
        ]
        if not places:
            raise DatasetError(f"{shard_set.source}: none of {batch_size} samples can be read")
        samples += len(places)
        batch = clock.timed("collate", collator.batch, [place.position for place in places])
    return {name: seconds / samples for name, seconds in clock.seconds.items()}, batch


def _made_of(
    shard_set: ShardSet, place: Place, transform: StagedTransform, collator: Collator, clock: "_Clock"
) -> bool:
    try:
        sample = clock.timed("read", shard_set.read, place.shard, place.row)
        decoded = clock.timed("decode", transform.decode, sample.image, place.key)
        pixels = clock.timed("augment", transform.augment, decoded, place.key)
    except DatasetError:  # of the picture; a shard that is damaged as a whole ends the workers' part
        return False
    clock.timed("collate", collator.add, pixels, sample.caption)
    return True


class _Clock:
    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("read", "decode", "augment", "collate"), 0.0)

    def timed(self, name: str, function: Callable[..., Made], *given: Any) -> Made:
        begun = time.perf_counter()
        made = function(*given)
        self.seconds[name] += time.perf_counter() - begun
        return made


def judged(seconds: dict[str, float], whole: float, workers: int, cpus: int) -> tuple[str, str]:
    """Return what limits a stream of `whole` samples/s whose steps take `seconds` each, and what helps."""
    work = {name: each for name, each in seconds.items() if name != "device_copy"}
    promised = min(max(1, workers), cpus) / sum(work.values())
    if seconds.get("device_copy", 0) * whole > _AS_PROMISED:
        return "device_copy", "copies fill the way to the GPU: a faster bus, or a smaller picture size"
    if whole < _AS_PROMISED * promised:
        return "workers", (
            f"{promised:,.0f} samples/s were to be expected of the steps: look for other work on the CPUs, "
            "little memory, or a slow /dev/shm"
        )
    step = max(work, key=lambda name: work[name])
    if step == "read":
        return step, "a faster or nearer disk; or more --workers, so that more reads wait at a time"
    if workers < cpus:
        return step, f"more --workers, up to the number of CPUs: {cpus}"
    remedies = {
        "decode": "more CPUs, or smaller pictures (`clipkit ingest --image-size`)",
        "augment": "more CPUs, or fewer changes to the pictures (colour jitter is the dearest)",
        "collate": "more CPUs",
    }
    return step, remedies[step]
