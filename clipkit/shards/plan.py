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
Integers = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]

_PIECE = 1 << 18  # how much of a long permutation is made at a time; a multiple of _GROUP
_GROUP = 16


def draw_key(*values: int) -> int:
    """Return the 64-bit key of a sequence of integers: h ← mix(h xor value), from 0."""
    key = 0
    for value in values:
        key = mix(key ^ (value & MASK))
    return key


def permutation(length: int, *key: int) -> Int64s:
    """Return the permutation of 0…length−1 that belongs to `key`: a stable argsort of mixed counters."""
    return np.asarray(np.argsort(_mixed(0, length, draw_key(*key)), kind="stable"), np.int64)


def compact_permutation(length: int, *key: int) -> Integers:
    """Return `permutation(length, *key)` in the smallest integers, in little more memory than they take."""
    if length <= _PIECE:
        return permutation(length, *key).astype(np.min_scalar_type(length))
    # What sorts by its highest bits alone needs not be in memory with the rest. No two values are equal.
    bits = (length // _PIECE).bit_length()
    drawn = draw_key(*key)
    pieces = []
    for highest in range(1 << bits):
        numbers = [_numbers_of(highest, bits, first, length, drawn) for first in range(0, length, _PIECE)]
        piece = np.concatenate(numbers)
        values = mix(piece.astype(np.uint64) ^ np.uint64(drawn))
        pieces.append(piece[np.argsort(values)])
    return np.concatenate(pieces)


def _mixed(first: int, end: int, drawn: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return mix(np.arange(first, end, dtype=np.uint64) ^ np.uint64(drawn))


def _numbers_of(highest: int, bits: int, first: int, length: int, drawn: int) -> Integers:
    values = _mixed(first, min(first + _PIECE, length), drawn)
    found = np.flatnonzero(values >> np.uint64(64 - bits) == highest) + first
    return found.astype(np.min_scalar_type(length))


class ShardPlan:
    """The order in which the samples of shards of the given sizes are trained on.

    Positions P ≥ 0 run over the whole training, epoch after epoch. The plan keeps the shards' order in the
    two epochs last used, some 5 bytes a shard each, and the permutations of the blocks last used, about
    2 × `streams` × `block` integers.
    """

    def __init__(self, sizes: Sequence[int] | Int64s, seed: int, streams: int = STREAMS, block: int = BLOCK):
        given = np.asarray(sizes, dtype=np.int64)
        self.samples = int(given.sum())
        if self.samples < 1 or given.min() < 0:
            raise ValueError("a plan needs at least one sample, and no shard of negative size")
        if streams < 1 or block < 1:
            raise ValueError(f"a plan needs streams and blocks of at least 1, found {streams} and {block}")
        self.seed = seed
        self.block = block
        self.streams = min(streams, max(1, self.samples // block))
        self._sizes = given.astype(np.min_scalar_type(given.max()))
        self._epochs: OrderedDict[int, _LaidShards] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int, int], Integers] = OrderedDict()

    def locate(self, positions: Int64s) -> tuple[Int64s, Int64s]:
        """Return the shard numbers (index order) and the rows in them, each int64 like `positions`."""
        shards = np.empty(len(positions), np.int64)
        rows = np.empty(len(positions), np.int64)
        epochs = positions // self.samples
        for epoch in np.unique(epochs).tolist():
            here = np.flatnonzero(epochs == epoch)
            laid = self._laid_rows(epoch, positions[here] - epoch * self.samples)
            shards[here], rows[here] = self._epoch(epoch).locate(laid)
        return shards, rows

    def positions(self, first: int, end: int) -> Int64s:
        """Return the positions `first` … `end` − 1, those of one stream together, ascending within it."""
        positions = np.arange(first, end, dtype=np.int64)
        return positions[np.argsort(positions % self.streams, kind="stable")]

    def _laid_rows(self, epoch: int, offsets: Int64s) -> Int64s:
        """Places in the row of all samples for positions within the epoch."""
        length, longer = divmod(self.samples, self.streams)
        spans = offsets % self.streams
        blocks, places = np.divmod(offsets // self.streams, self.block)
        laid: Int64s = spans * length + np.minimum(spans, longer) + blocks * self.block
        # Those of one block lie together once sorted.
        order = np.lexsort((blocks, spans))
        changes = (np.diff(spans[order]) != 0) | (np.diff(blocks[order]) != 0)
        for group in np.split(order, np.flatnonzero(changes) + 1):
            span, block = int(spans[group[0]]), int(blocks[group[0]])
            shuffled = self._block(epoch, span, block, length + (span < longer))
            laid[group] += shuffled[places[group]].astype(np.int64)
        return laid

    def _epoch(self, epoch: int) -> "_LaidShards":
        found = self._epochs.get(epoch)
        if found is None:
            if len(self._epochs) > 1:
                self._epochs.popitem(last=False)
            order = compact_permutation(len(self._sizes), self.seed, epoch, 0)
            found = self._epochs[epoch] = _LaidShards(order, self._sizes)
        return found

    def _block(self, epoch: int, span: int, block: int, span_length: int) -> Integers:
        key = epoch, span, block
        found = self._blocks.get(key)
        if found is None:
            length = min(self.block, span_length - block * self.block)
            found = self._blocks[key] = compact_permutation(length, self.seed, epoch, 1 + span, block)
            if len(self._blocks) > 2 * self.streams:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(key)
        return found


class _LaidShards:
    """Shards laid end to end in an epoch's order; where each begins is kept for every 16th only."""

    def __init__(self, order: Integers, sizes: Integers):
        self._order = order
        self._sizes = sizes
        firsts = range(0, len(order), _PIECE)
        ends = [0]
        sums = []
        for first in firsts:
            laid = sizes[order[first : first + _PIECE]]
            groups = np.add.reduceat(laid, np.arange(0, len(laid), _GROUP), dtype=np.int64)
            sums.append(np.cumsum(groups) + ends[-1])
            ends.append(int(sums[-1][-1]))
        self._ends = np.concatenate(sums)

    def locate(self, laid: Int64s) -> tuple[Int64s, Int64s]:
        """Return the shards that hold these places of the row, and the rows in them."""
        groups = np.searchsorted(self._ends, laid, side="right")
        members = np.minimum(groups[:, None] * _GROUP + np.arange(_GROUP), len(self._order) - 1)
        shards = self._order[members]
        sizes = self._sizes[shards].astype(np.int64)
        ends = np.cumsum(sizes, axis=1)
        begun = np.where(groups > 0, self._ends[groups - 1], 0)
        within = laid - begun
        at = (ends <= within[:, None]).sum(axis=1)[:, None]
        starts = np.take_along_axis(ends - sizes, at, axis=1)[:, 0]
        return np.take_along_axis(shards, at, axis=1)[:, 0].astype(np.int64), within - starts
