"""How fast a dataset can be read for training here: each step alone, and all with workers."""

import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from dataclasses import asdict, dataclass
from itertools import islice
from statistics import median
from typing import Any, Protocol, TypeVar

from clipkit.cpus import available_cpus
from clipkit.errors import DatasetError
from clipkit.locations import each_of
from clipkit.pictures import Pixels
from clipkit.processes import keep_freed_memory
from clipkit.shards.bottleneck import Figures, judged
from clipkit.shards.decoded import Transform
from clipkit.shards.loader import Batch, Collator, Tokenize, batches, device_copy_seconds
from clipkit.shards.mixture import Mixture, MixturePlan, Place
from clipkit.shards.picture_check import picture_size
from clipkit.shards.shard_set import ShardSet
from clipkit.tables import table

_WARM_UP = 2  # batches of each worker
_ROUNDS = 2  # batches of each worker that are measured, at least
_SIZED = 100  # pictures whose size is looked at

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

    `reads` is that of reading alone, as many at a time as there are workers; `short_side` the median of the
    stored pictures', in pixels. Without a GPU there is no step `device_copy`. `bottleneck` names a step, or
    "workers" where the whole is much slower than the steps promise; `advice` says what to change.
    """

    steps: dict[str, float]
    reads: float
    whole: float
    workers: int
    batch_size: int
    cpus: int
    short_side: int
    bottleneck: str
    advice: str

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return asdict(self)

    def lines(self) -> str:
        """Return the result as a table to read."""
        rows = [(name.replace("_", " "), f"{rate:,.0f} samples/s") for name, rate in self.steps.items()]
        rows.insert(1, (f"read, {max(1, self.workers)} at a time", f"{self.reads:,.0f} samples/s"))
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
    """Measure `steps` batches in an order as of training: the steps alone, then others with workers.

    Each call takes another order, so that what an earlier one has read, and the system remembers, does not
    count as read fast; of a dataset that fits into memory it does. Samples that cannot be read are left out.
    Raises DatasetError as reading does, and if there is no other.
    """
    seed = secrets.randbits(32)
    alone = _Alone(shard_set, batch_size, seed, transform, tokenize)
    batch = alone.measure(steps)
    seconds = alone.seconds()
    copied = device_copy_seconds(batch)
    if copied is not None:
        seconds["device_copy"] = copied / len(batch.positions_B)
    reads_alone = alone.reads(1, range(1 + steps, 1 + 2 * steps))
    reads = alone.reads(max(1, workers), range(1 + 2 * steps, 1 + 3 * steps))
    made = batches(
        shard_set,
        batch_size=batch_size,
        workers=workers,
        seed=seed,
        position=(1 + 3 * steps) * batch_size,  # what was read above is in memory by now
        transform=transform,
        tokenize=tokenize,
        told=lambda bad, seen: None,
    )
    # Workers end their batches at about the same time: only whole rounds of them tell how fast they are.
    a_round = max(1, workers)
    count = a_round * max(_ROUNDS if workers else 1, -(-steps // a_round))
    for _ in islice(made, _WARM_UP * a_round):
        pass
    begun = time.perf_counter()
    for _ in islice(made, count):
        pass
    whole = count * batch_size / (time.perf_counter() - begun)
    cpus = available_cpus()
    short_side = round(median(alone.short_sides)) if alone.short_sides else 0
    figures = Figures(
        seconds, reads_alone, reads, whole, workers, cpus, short_side, batch.images_BCHW.shape[-1]
    )
    rates = {name: 1 / each for name, each in seconds.items()}
    return BenchResult(rates, reads, whole, workers, batch_size, cpus, short_side, *judged(figures))


class _Alone:
    """The steps, one after the other in this process, batch by batch."""

    def __init__(
        self,
        shard_set: ShardSet,
        batch_size: int,
        seed: int,
        transform: StagedTransform,
        tokenize: Tokenize,
    ):
        keep_freed_memory()  # as workers do
        mixture = Mixture([shard_set])
        self._shard_set = shard_set
        self._plan = MixturePlan([shard_set.sizes], mixture.shares, batch_size, seed)
        self._batch_size = batch_size
        self._transform = transform
        self._tokenize = tokenize
        self._clock = _Clock()
        self._samples = 0
        self.short_sides: list[int] = []

    def measure(self, steps: int) -> Batch:
        """Make batch 0, which is not counted (what is loaded at first use is no step), and `steps` more."""
        batch = self._batch(0)
        self._clock, self._samples = _Clock(), 0
        for number in range(1, 1 + steps):
            batch = self._batch(number)
        return batch

    def seconds(self) -> dict[str, float]:
        """Return the seconds a sample of each step."""
        return {name: seconds / self._samples for name, seconds in self._clock.seconds.items()}

    def reads(self, at_once: int, numbers: Sequence[int]) -> float:
        """Return the samples/s of reading these batches and doing nothing else, so many reads at a time."""
        places = [place for number in numbers for place in self._plan.places(number, slice(None))]
        sets = [copy(self._shard_set) for _ in range(at_once)]  # each with files of its own

        def read(number: int) -> None:
            for place in places[number::at_once]:
                with suppress(DatasetError):
                    sets[number].read(place.shard, place.row)

        for each in sets:
            self._fetched(each, places)
        with ThreadPoolExecutor(at_once) as threads:
            begun = time.perf_counter()
            list(threads.map(read, range(at_once)))
            return len(places) / (time.perf_counter() - begun)

    def _batch(self, number: int) -> Batch:
        collator = Collator(self._batch_size, self._tokenize)
        there = self._plan.places(number, slice(None))
        self._fetched(self._shard_set, there)
        places = [place for place in there if self._made(place, collator)]
        if not places:
            raise DatasetError(f"{self._shard_set.source}: none of {self._batch_size} samples can be read")
        self._samples += len(places)
        return self._clock.timed("collate", collator.batch, [place.position for place in places])

    def _fetched(self, shard_set: ShardSet, places: Sequence[Place]) -> None:
        """Have what lies behind an address here, as it is for a stream, which fetches it ahead."""
        if not shard_set.is_remote:
            return

        def read(place: Place) -> None:
            with suppress(DatasetError):  # which the reading itself meets
                shard_set.read(place.shard, place.row)

        for _ in each_of(read, {place.shard: place for place in places}.values(), remote=True):
            pass

    def _made(self, place: Place, collator: Collator) -> bool:
        clock = self._clock
        try:
            sample = clock.timed("read", self._shard_set.read, place.shard, place.row)
            decoded = clock.timed("decode", self._transform.decode, sample.image, place.key)
            pixels = clock.timed("augment", self._transform.augment, decoded, place.key)
        except DatasetError:  # of the picture; a shard that is damaged as a whole ends the workers' part
            return False
        clock.timed("collate", collator.add, pixels, sample.caption)
        if len(self.short_sides) < _SIZED:
            with suppress(Exception):  # of a format that only the decoder knows
                self.short_sides.append(min(picture_size(sample.image)))
        return True


class _Clock:
    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("read", "decode", "augment", "collate"), 0.0)

    def timed(self, name: str, function: Callable[..., Made], *given: Any) -> Made:
        begun = time.perf_counter()
        made = function(*given)
        self.seconds[name] += time.perf_counter() - begun
        return made
