"""Pairs of 64-bit hashes that differ in few bits, without comparing all with all.

Multi-index hashing (Norouzi, Punjani, Fleet 2012): the bits are dealt out to bands; where two hashes differ
in at most K bits, they do so in few of one band, and its values are looked up, with so many bits flipped. A
band value that very many share is searched by the other bits in the same way, so no bucket is too full.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BITS = 64
FARTHEST = 8
_WIDEST_BAND = 22  # its table has 4 M entries
_CHUNK = 1 << 16  # hashes at a time: what belongs to them stays in the cache
_AT_ONCE = 1 << 20  # candidates
_HOT = 1 << 22  # candidates of one bucket
_FEW = 1 << 16
_MOST = 1 << 32  # hashes: their places are kept in 32 bits

Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]
Places = np.ndarray[tuple[int], np.dtype[np.int64]]
Pairs = tuple[Places, Places]


def near_pairs(hashes: Hashes, distance: int) -> Iterator[Pairs]:
    """Yield the pairs of places (i, j), i < j, whose hashes (distinct ones) differ in at most so many bits.

    Each pair comes at least once, in any order, in arrays (i, j) of bounded length. Memory is about 25 bytes
    a hash. Raises ValueError for a distance beyond FARTHEST.
    """
    _check(distance)
    for one, other in _search(hashes, None, tuple(range(BITS)), distance, distance):
        yield np.minimum(one, other), np.maximum(one, other)


def near_matches(hashes: Hashes, others: Hashes, distance: int) -> Iterator[Pairs]:
    """Yield the pairs (i, j) for which hash i of `hashes` and j of `others` differ in at most so many bits.

    Both hold distinct hashes; else as `near_pairs`.
    """
    _check(distance)
    yield from _search(hashes, others, tuple(range(BITS)), distance, distance)


def _check(distance: int) -> None:
    if not 0 <= distance <= FARTHEST:
        raise ValueError(f"expected a distance of 0…{FARTHEST} bits, found {distance}")


class _Band(NamedTuple):
    """Some of the bits, and in how many of them the hashes of a pair may differ."""

    bits: tuple[int, ...]
    radius: int

    def masks(self) -> Iterator[int]:
        """Yield what to flip in a value, the lowest of the band's bits first; nothing at first."""
        for count in range(self.radius + 1):
            for places in itertools.combinations(range(len(self.bits)), count):
                yield sum(1 << place for place in places)


class _Buckets:
    """Hashes by their value in a band: `order` sorts them, those of value v are starts[v] … starts[v + 1]."""

    def __init__(self, hashes: Hashes, bits: tuple[int, ...]):
        if len(hashes) > _MOST:
            raise ValueError(f"expected at most {_MOST:,} hashes, found {len(hashes):,}")
        # Value and place, sorted as one number, in place.
        both = np.empty(len(hashes), dtype=np.uint64)
        for part in _parts(len(hashes)):
            values = np.zeros(part.stop - part.start, dtype=np.uint64)
            for place, bit in enumerate(bits):
                values |= (hashes[part] >> np.uint64(bit) & np.uint64(1)) << np.uint64(place)
            both[part] = values << np.uint64(32) | np.arange(part.start, part.stop, dtype=np.uint64)
        both.sort()
        self.order = both.astype(np.uint32)  # the lower half
        both >>= np.uint64(32)
        self.values = both.astype(np.uint32)
        del both
        self.hashes = np.empty(len(hashes), dtype=np.uint64)
        self.sizes = np.zeros(1 << len(bits), dtype=np.int64)
        for part in _parts(len(hashes)):  # not at once: numpy would make 64 bits of each place
            self.hashes[part] = hashes[self.order[part]]
            first, last = int(self.values[part.start]), int(self.values[part.stop - 1])
            self.sizes[first : last + 1] += np.bincount(self.values[part] - np.uint32(first))
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])

    def of(self, value: int) -> slice:
        return slice(int(self.starts[value]), int(self.starts[value + 1]))


def _parts(count: int) -> Iterator[slice]:
    return (slice(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK))


def _bands(bits: tuple[int, ...], distance: int, count: int) -> list[_Band]:
    # With D = m·r + a, two hashes that differ in more than r bits of each of the first a + 1 of m bands, and
    # in at least r of each other one, differ in more than D. The bits are dealt out in turn: where a part of
    # the picture is plain, its bits then are a few of each band, not all of one.
    bands = max(-(-len(bits) // _WIDEST_BAND), min(len(bits), round(len(bits) / math.log2(max(count, 4)))))
    radius, more = divmod(distance, bands)
    dealt = [_Band(bits[band::bands], radius - (band > more)) for band in range(bands)]
    return [band for band in dealt if band.radius >= 0]


def _search(
    left: Hashes, right: Hashes | None, bits: tuple[int, ...], distance: int, most: int
) -> Iterator[Pairs]:
    """Yield places of hashes that differ in at most `most` bits; in `distance` of `bits`, all others known.

    Without `right` the pairs are among `left`.
    """
    others = left if right is None else right
    if len(left) * len(others) <= _FEW or len(bits) <= 8:
        yield from _compared(left, others, most, among=right is None)
        return
    for band in _bands(bits, distance, max(len(left), len(others))):
        mine = _Buckets(left, band.bits)
        theirs = mine if right is None else _Buckets(others, band.bits)
        rest = tuple(bit for bit in bits if bit not in band.bits)
        hot = np.flatnonzero(mine.sizes * int(theirs.sizes.max()) > _HOT)
        for mask in band.masks():
            for value in hot[mine.sizes[hot] * theirs.sizes[hot ^ mask] > _HOT].tolist():
                yield from _hot(mine, theirs, value, mask, rest, distance, most)
        yield from _cool(mine, theirs, band, most)
        del mine, theirs  # before the next ones are made


def _hot(
    mine: _Buckets,
    theirs: _Buckets,
    value: int,
    mask: int,
    rest: tuple[int, ...],
    distance: int,
    most: int,
) -> Iterator[Pairs]:
    if mine is theirs and value ^ mask < value:
        return
    one, other = mine.of(value), theirs.of(value ^ mask)
    right = None if mine is theirs and not mask else theirs.hashes[other]
    for i, j in _search(mine.hashes[one], right, rest, distance - mask.bit_count(), most):
        yield mine.order[one][i].astype(np.int64), theirs.order[other][j].astype(np.int64)


def _cool(mine: _Buckets, theirs: _Buckets, band: _Band, most: int) -> Iterator[Pairs]:
    """Yield the pairs in all buckets that are not hot."""
    masks = list(band.masks())
    for part in _parts(len(mine.values)):
        places = np.arange(part.start, part.stop)
        values = mine.values[places]
        for mask in masks:
            partners = values ^ np.uint32(mask)
            starts, sizes = theirs.starts[partners], theirs.sizes[partners]
            sizes[mine.sizes[values] * sizes > _HOT] = 0
            if mine is theirs and mask:
                sizes[partners < values] = 0
            elif mine is theirs:
                sizes = np.where(sizes > 0, starts + sizes - places - 1, 0)
                starts = places + 1
            for one, other in _products(places, starts, sizes):
                near = np.bitwise_count(mine.hashes[one] ^ theirs.hashes[other]) <= most
                if near.any():
                    pairs = mine.order[one[near]], theirs.order[other[near]]
                    yield pairs[0].astype(np.int64), pairs[1].astype(np.int64)


def _products(places: Places, starts: Places, sizes: Places) -> Iterator[Pairs]:
    """Yield each place with each of the `sizes` places from its start on, not too many at once."""
    some = np.flatnonzero(sizes)
    places, starts, sizes = places[some], starts[some], sizes[some]
    ends = np.cumsum(sizes)
    begin = 0
    while begin < len(places):
        done = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + _AT_ONCE, side="right")))
        count = sizes[begin:end]
        shifts = starts[begin:end] - (ends[begin:end] - count - done)
        yield np.repeat(places[begin:end], count), np.arange(int(count.sum())) + np.repeat(shifts, count)
        begin = end


def _compared(left: Hashes, right: Hashes, most: int, *, among: bool) -> Iterator[Pairs]:
    rows = max(1, _AT_ONCE // max(1, len(right)))
    for first in range(0, len(left), rows):
        differing = np.bitwise_count(left[first : first + rows, None] ^ right)
        i, j = np.nonzero(differing <= most)
        i += first
        yield (i[i < j], j[i < j]) if among else (i, j)
