"""The canonical order of training samples: a pure function of shard sizes, seed and position.

An epoch lays the shards end to end in a permuted order and cuts the row of N samples into C spans; each
span is shuffled within blocks of M rows, and the spans are read in turn. So neighbours in the order come
from far apart, yet a reader touches only about C blocks at a time, and any position is found in O(1).
All randomness is the splitmix64 step over explicit keys.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipkit.splitmix import MASK, mix

STREAMS = 64
BLOCK = 4000

Int64s = np.ndarray[Any, np.dtype[np.int64]]


def draw_key(*values: int) -> int:
    """Return the 64-bit key of a sequence of integers: h ← mix(h xor value), from 0."""
    key = 0
    for value in values:
        key = mix(key ^ (value & MASK))
    return key


def permutation(length: int, *key: int) -> Int64s:
    """Return the permutation of 0…length−1 that belongs to `key`: a stable argsort of mixed counters."""
    counters = np.arange(length, dtype=np.uint64)
    return np.argsort(mix(counters ^ np.uint64(draw_key(*key))), kind="stable")


class ShardPlan:
    """The order in which the samples of shards of the given sizes are trained on.

    Positions P ≥ 0 run over the whole training, epoch after epoch. The plan keeps the permutations of
    the blocks last used, about 2 × `streams` × `block` integers.
    """

    def __init__(self, sizes: Sequence[int] | Int64s, seed: int, streams: int = STREAMS, block: int = BLOCK):
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.samples = int(self.sizes.sum())
        if self.samples < 1 or self.sizes.min() < 0:
            raise ValueError("a plan needs at least one sample, and no shard of negative size")
        self.seed = seed
        self.block = block
        self.streams = min(streams, max(1, self.samples // block))
        self._epochs: OrderedDict[int, tuple[Int64s, Int64s]] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int, int], Int64s] = OrderedDict()

    def locate(self, positions: Int64s) -> tuple[Int64s, Int64s]:
        """Return the shard numbers (index order) and the rows in them, each int64 like `positions`."""
        shards = np.empty(len(positions), np.int64)
        rows = np.empty(len(positions), np.int64)
        for place, position in enumerate(positions.tolist()):
            epoch, offset = divmod(position, self.samples)
            order, starts = self._epoch(epoch)
            laid = self._laid_row(epoch, offset % self.streams, offset // self.streams)
            at = int(np.searchsorted(starts, laid, side="right")) - 1
            shards[place], rows[place] = order[at], laid - starts[at]
        return shards, rows

    def batch_positions(self, batch: int, batch_size: int) -> Int64s:
        """Return the positions of global batch `batch` in the order in which the ranks share them out."""
        positions = np.arange(batch * batch_size, (batch + 1) * batch_size, dtype=np.int64)
        return positions[np.argsort(positions % self.streams, kind="stable")]

    def _laid_row(self, epoch: int, span: int, row: int) -> int:
        length, longer = divmod(self.samples, self.streams)
        start = span * length + min(span, longer)
        length += span < longer
        block, place = divmod(row, self.block)
        return start + block * self.block + int(self._block(epoch, span, block, length)[place])

    def _epoch(self, epoch: int) -> tuple[Int64s, Int64s]:
        found = self._epochs.get(epoch)
        if found is None:
            order = permutation(len(self.sizes), self.seed, epoch, 0)
            ends = np.cumsum(self.sizes[order])
            found = order, ends - self.sizes[order]
            self._epochs[epoch] = found
            if len(self._epochs) > 2:
                self._epochs.popitem(last=False)
        return found

    def _block(self, epoch: int, span: int, block: int, span_length: int) -> Int64s:
        key = epoch, span, block
        found = self._blocks.get(key)
        if found is None:
            length = min(self.block, span_length - block * self.block)
            found = self._blocks[key] = permutation(length, self.seed, epoch, 1 + span, block)
            if len(self._blocks) > 2 * self.streams:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(key)
        return found
