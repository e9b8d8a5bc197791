import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.shards import hamming
from clipkit.shards.hamming import FARTHEST, near_matches, near_pairs

Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]


def found(pairs: object) -> set[tuple[int, int]]:
    return {(int(i), int(j)) for one, other in pairs for i, j in zip(one, other, strict=True)}  # type: ignore[attr-defined]


def brute(hashes: Hashes, others: Hashes, distance: int) -> set[tuple[int, int]]:
    i, j = np.nonzero(np.bitwise_count(hashes[:, None] ^ others) <= distance)
    return set(zip(i.tolist(), j.tolist(), strict=True))


def hashes_of(seed: int, centres: int, around: int, flips: int, fixed: int) -> Hashes:
    """Distinct hashes in clusters of up to so many flips; the lowest `fixed` bits are the same in all."""
    draws = np.random.default_rng(seed)
    centre = draws.integers(0, 2**64, centres, dtype=np.uint64)
    hashes = np.repeat(centre, around)
    for _ in range(flips):
        hashes ^= np.uint64(1) << draws.integers(0, 64, len(hashes), dtype=np.uint64)
    hashes &= ~np.uint64(2**fixed - 1) if fixed else ~np.uint64(0)
    return draws.permutation(np.unique(hashes))


@given(
    seed=st.integers(0, 2**32),
    centres=st.integers(1, 400),
    around=st.integers(1, 6),
    flips=st.integers(0, 9),
    fixed=st.sampled_from([0, 0, 20, 40]),
    distance=st.integers(0, FARTHEST),
    hot=st.sampled_from([1 << 10, 1 << 22]),
    few=st.sampled_from([1 << 8, 1 << 16]),
)
@settings(max_examples=60, deadline=None)
def test_the_pairs_are_those_that_comparing_all_finds(
    seed: int, centres: int, around: int, flips: int, fixed: int, distance: int, hot: int, few: int
) -> None:
    hashes = hashes_of(seed, centres, around, flips, fixed)
    before = hamming._HOT, hamming._FEW, hamming._CHUNK, hamming._AT_ONCE
    hamming._HOT, hamming._FEW, hamming._CHUNK, hamming._AT_ONCE = hot, few, 97, 203
    try:
        pairs = found(near_pairs(hashes, distance))
        assert pairs == {(i, j) for i, j in brute(hashes, hashes, distance) if i < j}
        half = len(hashes) // 3
        one, other = hashes[:half], hashes[half:]
        assert found(near_matches(one, other, distance)) == brute(one, other, distance)
    finally:
        hamming._HOT, hamming._FEW, hamming._CHUNK, hamming._AT_ONCE = before


def test_many_hashes_with_hot_buckets_and_planted_neighbours() -> None:
    draws = np.random.default_rng(5)
    plain = draws.integers(0, 2**64, 200_000, dtype=np.uint64)
    plain[:60_000] &= np.uint64(0xFFFFFFFF_FFFC0000)  # a part of the picture is white
    plain[60_000:90_000] &= np.uint64(0x77777777_77777777)  # every fourth bit is the same
    planted = plain[:3000].copy()
    for _ in range(3):
        planted ^= np.uint64(1) << draws.integers(0, 64, len(planted), dtype=np.uint64)
    hashes = np.unique(np.concatenate([plain, planted]))
    place = {value: number for number, value in enumerate(hashes.tolist())}
    pairs = found(near_pairs(hashes, 3))
    for one, other in zip(plain[:3000].tolist(), planted.tolist(), strict=True):
        i, j = sorted((place[one], place[other]))
        assert i == j or (i, j) in pairs
    distances = [(int(hashes[i]) ^ int(hashes[j])).bit_count() for i, j in itertools.islice(pairs, 5000)]
    assert max(distances) <= 3


@pytest.mark.parametrize("distance", [-1, FARTHEST + 1])
def test_a_distance_that_tells_nothing_is_refused(distance: int) -> None:
    with pytest.raises(ValueError, match="0…8"):
        list(near_pairs(np.zeros(1, dtype=np.uint64), distance))
