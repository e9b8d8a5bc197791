"""Which pictures are the same or nearly so: by the SHA-256 of their bytes as served, and by their hashes."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from clipkit.errors import DatasetError
from clipkit.locations import decoded
from clipkit.progress import Progress
from clipkit.shards.format import sample_key
from clipkit.shards.hamming import BITS, Hashes, Places, near_matches
from clipkit.shards.leaders import leaders
from clipkit.shards.original import WITHOUT, Original, Words, sha256_words

FLAT_BITS = 8
_COLUMNS = ["sha256", "dhash", "original_width", "original_height"]

Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]


class Pictures(NamedTuple):
    """What tells n pictures apart, 32 bytes each: half of the SHA-256 (n, 2), `dhash`, pixels as served.

    `name` gives a picture's key or path by its place. `fingerprint` is that of all of them; `flat` says which
    have fewer than FLAT_BITS bits set, or not set, of their difference hash: a white picture has none. Very
    different pictures, with little on white, have such hashes too, so that they tell nothing.
    """

    source: str
    fingerprint: str
    sha256: Words
    dhash: Hashes
    pixels: Places
    name: Callable[[int], str]

    @property
    def flat(self) -> Flags:
        """Which of them have a difference hash that tells nothing."""
        count = np.bitwise_count(self.dhash)
        return (count < FLAT_BITS) | (count > BITS - FLAT_BITS)


def pictures_of(original: Original, display: Progress) -> Pictures:
    """Read what tells a dataset's pictures apart. Raises DatasetError as `Original` does."""
    sha256 = np.empty((original.samples, 2), dtype=np.uint64)
    dhash = np.empty(original.samples, dtype=np.uint64)
    pixels = np.empty(original.samples, dtype=np.int64)
    ends = np.cumsum(original.sizes)
    manifests = original.manifests(original.shards, _COLUMNS)
    for (shard, manifest), end in zip(manifests, ends.tolist(), strict=True):
        rows = slice(end - shard.samples, end)
        if manifest["dhash"].null_count:
            raise DatasetError(
                f"{original.directory / shard.name}: expected a dhash for each sample, found none for some"
                f"{WITHOUT.format('dhash')}"
            )
        sha256[rows] = sha256_words(manifest["sha256"], original.directory / shard.name)[:, :2]
        dhash[rows] = manifest["dhash"].to_numpy()
        sides = (pc.fill_null(manifest[name], 0).to_numpy().astype(np.int64) for name in _COLUMNS[2:])
        pixels[rows] = np.multiply(*sides)
        display.update(end)

    def name(place: int) -> str:
        shard = int(np.searchsorted(ends, place, side="right"))
        return sample_key(
            int(Path(original.shards[shard].name).stem), place - int(ends[shard] - original.sizes[shard])
        )

    source = decoded(original.directory.resolve().name)
    return Pictures(source, original.fingerprint, sha256, dhash, pixels, name)


def within(pictures: Pictures, near: int | None) -> Places:
    """Return for each picture the place of the one that it is left out for, its own if it stays.

    Of those with the same bytes the first stays. Then, with `near`, those with the most pixels come first, of
    equals the earlier: what differs in at most so many bits from one that stays is left out for it.
    """
    leader = _first_of_equal_bytes(pictures.sha256)
    if near is None:
        return leader
    single = np.flatnonzero((leader == np.arange(len(leader))) & ~pictures.flat)
    single = single[np.lexsort((single, -pictures.pixels[single]))]
    leader[single] = single[_near_leaders(pictures.dhash[single], near)]
    return leader[leader]


def _first_of_equal_bytes(sha256: Words) -> Places:
    order = np.lexsort((sha256[:, 1], sha256[:, 0]))  # stable: the first is first
    is_first = np.ones(len(order), dtype=np.bool_)
    is_first[1:] = False
    for word in sha256.T:
        words = word[order]
        is_first[1:] |= words[1:] != words[:-1]
    leader = np.empty(len(order), dtype=np.int64)
    leader[order] = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    return leader


def _near_leaders(dhash: Hashes, near: int) -> Places:
    """As `leaders`, of hashes that need not be distinct: an equal one goes for the first."""
    hashes, firsts, which = np.unique(dhash, return_index=True, return_inverse=True)
    preferred = np.argsort(firsts)
    ordered = hashes[preferred]
    # What is held meanwhile is most of all the memory: so it is half as wide, where that is enough.
    narrow = np.uint32 if len(dhash) < 1 << 32 else np.int64
    firsts, which, preferred = firsts.astype(narrow), which.astype(narrow), preferred.astype(narrow)
    del hashes
    led_by = np.empty(len(ordered), dtype=np.int64)
    led_by[preferred] = firsts[preferred[leaders(ordered, near)]]
    return led_by[which]


def against(pictures: Pictures, others: Pictures, near: int | None) -> Places:
    """Return for each picture the place of one of `others` that it resembles, -1 if it does none.

    It is the first that has the same bytes, else, with `near`, the first that differs in so few bits.
    """
    found = np.full(len(pictures.dhash), len(others.dhash), dtype=np.int64)
    if near is not None:
        usable, theirs = np.flatnonzero(~pictures.flat), np.flatnonzero(~others.flat)
        hashes, which = np.unique(pictures.dhash[usable], return_inverse=True)
        other_hashes, firsts = np.unique(others.dhash[theirs], return_index=True)
        first_match = np.full(len(hashes), len(others.dhash), dtype=np.int64)
        for one, other in near_matches(other_hashes, hashes, near):
            np.minimum.at(first_match, other, theirs[firsts[one]])
        found[usable] = first_match[which]
    digests: dict[bytes, int] = {}
    for place in np.flatnonzero(np.isin(others.sha256[:, 0], pictures.sha256[:, 0])).tolist():
        digests.setdefault(others.sha256[place].tobytes(), place)
    for place in np.flatnonzero(np.isin(pictures.sha256[:, 0], others.sha256[:, 0])).tolist():
        found[place] = digests.get(pictures.sha256[place].tobytes(), found[place])
    found[found == len(others.dhash)] = -1
    return found
