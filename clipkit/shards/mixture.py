"""Several datasets read as one stream: how many samples each gives, and which ones."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from clipkit.errors import ConfigError
from clipkit.shards.plan import BLOCK, STREAMS, Int64s, ShardPlan, draw_key
from clipkit.shards.sample_set import SampleSet


class Mixture:
    """Datasets that are trained on together, each giving its share of every stretch of the stream.

    `weights` are in proportion to the shares; without them each dataset gives as many samples as it has, so
    that an epoch is each sample once. Any others make datasets end at different times. An epoch (`len`) then
    ends with the first of them, and the next one goes on with what the others have left; with `repeat` it
    ends with the last of them, and the others begin anew within it. Either way a dataset gives all of its
    samples before it gives one again. Raises ConfigError for weights that do not fit, and equal datasets.
    """

    def __init__(
        self, sets: Sequence[SampleSet], weights: Sequence[float] | None = None, *, repeat: bool = False
    ):
        self.sets = tuple(sets)
        given = [len(each) for each in self.sets] if weights is None else list(weights)
        if not self.sets or len(given) != len(self.sets) or not all(0 < each < np.inf for each in given):
            raise ConfigError(
                f"a mixture of {len(self.sets)} data sets needs as many weights above 0, found {given}"
            )
        for number, each in enumerate(self.sets):
            if each.fingerprint in {one.fingerprint for one in self.sets[:number]}:
                raise ConfigError(
                    f"{each.source}: expected different data sets, found the same samples twice: "
                    "give it once, with a larger --weight"
                )
        total = sum(map(Fraction, given))
        self.shares = tuple(Fraction(each) / total for each in given)
        self.repeat = repeat
        lines = "".join(f"{one.fingerprint}\t{share}\n" for one, share in zip(sets, self.shares, strict=True))
        self.fingerprint = hashlib.sha256(lines.encode()).hexdigest()

    def __len__(self) -> int:
        """Samples in an epoch of the mixture."""
        ends = [len(one) / share for one, share in zip(self.sets, self.shares, strict=True)]
        return max(1, int(max(ends) if self.repeat else min(ends)))


class Place(NamedTuple):
    """Where a sample stands: its dataset, position, shard and row there, and the key of its random draws."""

    dataset: int
    position: int
    shard: int
    row: int
    key: int


class MixturePlan:
    """The order of samples of several datasets: dataset d gives ⌊n·c_d⌋ − ⌊n·c_(d−1)⌋ of the first n.

    c are the cumulative shares. Each dataset has a plan of its own, of seed key(`seed`, d), but the first, of
    seed `seed`: a mixture of one is that one's stream. Raises ConfigError for a batch too small to hold one
    sample of each: the counts above would not rise with n.
    """

    def __init__(
        self,
        sizes: Sequence[Int64s],
        shares: Sequence[Fraction],
        batch_size: int,
        seed: int,
        streams: int = STREAMS,
        block: int = BLOCK,
    ):
        if batch_size * min(shares) < 1:
            raise ConfigError(
                f"the mixture's smallest weight, {float(min(shares)):.2g} of all, is less than one of the "
                f"{batch_size} samples in a batch: choose a larger batch size or leave that data set out"
            )
        self._batch_size = batch_size
        seeds = [draw_key(seed, number) if number else seed for number in range(len(sizes))]
        self.plans = [ShardPlan(each, own, streams, block) for each, own in zip(sizes, seeds, strict=True)]
        self._cumulative = [Fraction(0), *accumulate(shares)]

    def given(self, samples: int) -> list[int]:
        """Return how many of the first `samples` each dataset gives."""
        ends = [int(samples * share) for share in self._cumulative]
        return [last - first for first, last in pairwise(ends)]

    def places(self, batch: int, share: slice) -> list[Place]:
        """Return where the samples of this share of global batch `batch` stand, in order.

        The order spreads each dataset evenly over the batch, and so over the ranks.
        """
        firsts, ends = (self.given(each * self._batch_size) for each in (batch, batch + 1))
        positions = [plan.positions(*span) for plan, *span in zip(self.plans, firsts, ends, strict=True)]
        evenly = np.concatenate([(np.arange(len(own)) + 0.5) / max(1, len(own)) for own in positions])
        datasets = np.repeat(np.arange(len(positions)), [len(own) for own in positions])
        chosen = np.argsort(evenly, kind="stable")[share]
        datasets, own = datasets[chosen], np.concatenate(positions)[chosen]
        shards, rows = np.empty_like(own), np.empty_like(own)
        for number, plan in enumerate(self.plans):
            here = np.flatnonzero(datasets == number)
            shards[here], rows[here] = plan.locate(own[here])
        keys = [
            draw_key(self.plans[number].seed, position)
            for number, position in zip(datasets.tolist(), own.tolist(), strict=True)
        ]
        columns = (datasets.tolist(), own.tolist(), shards.tolist(), rows.tolist(), keys)
        return [Place(*each) for each in zip(*columns, strict=True)]

    def prepare(self, sets: Sequence[SampleSet], places: Sequence[Place]) -> None:
        """Begin to copy shards of `sets` behind addresses: those at these places, and a block after them.

        All streams come to their next blocks at about the same time: a block ahead there is time to copy.
        """
        for number, (shard_set, plan) in enumerate(zip(sets, self.plans, strict=True)):
            if shard_set.is_remote:
                here = [place for place in places if place.dataset == number]
                positions = np.array([place.position for place in here], dtype=np.int64)
                ahead, _ = plan.locate(positions + plan.streams * plan.block)
                shard_set.prepare(dict.fromkeys([*(place.shard for place in here), *ahead.tolist()]))

    def substitute(self, place: Place, number: int) -> Place:
        """Return where the sample stands that is the `number`th choice in place of one that cannot be read.

        It is any of the same dataset's, by a draw that depends on seed and position alone.
        """
        plan = self.plans[place.dataset]
        epoch = place.position // plan.samples
        drawn = draw_key(plan.seed, place.position, number) % plan.samples
        shards, rows = plan.locate(np.array([epoch * plan.samples + drawn]))
        return place._replace(shard=int(shards[0]), row=int(rows[0]))
