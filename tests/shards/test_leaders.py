import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.shards import leaders as module
from clipkit.shards.leaders import leaders
from tests.shards.test_hamming import Hashes, hashes_of


def expected(hashes: Hashes, distance: int) -> list[int]:
    kept: list[int] = []
    found = []
    for place, value in enumerate(hashes.tolist()):
        like = [one for one in kept if (int(hashes[one]) ^ value).bit_count() <= distance]
        if not like:
            kept.append(place)
        found.append(min(like, default=place))
    return found


@given(
    seed=st.integers(0, 2**32),
    centres=st.integers(1, 30),
    around=st.integers(1, 12),
    flips=st.integers(0, 6),
    distance=st.integers(0, 8),
    most_pairs=st.sampled_from([3, 40, 1 << 24]),
    rounds=st.sampled_from([0, 1, 30]),
)
@settings(max_examples=150, deadline=None)
def test_each_goes_for_the_first_that_stays_and_is_near(
    seed: int, centres: int, around: int, flips: int, distance: int, most_pairs: int, rounds: int
) -> None:
    hashes = hashes_of(seed, centres, around, flips, fixed=0)
    before = module.MOST_PAIRS, module._ROUNDS
    module.MOST_PAIRS, module._ROUNDS = most_pairs, rounds
    try:
        assert leaders(hashes, distance).tolist() == expected(hashes, distance)
    finally:
        module.MOST_PAIRS, module._ROUNDS = before


def test_a_long_chain_keeps_what_does_not_resemble_another() -> None:
    chain = np.array(
        [(1 << length) - 1 for length in range(64)], dtype=np.uint64
    )  # one bit from each to the next
    found = leaders(chain, 1)
    assert np.flatnonzero(found == np.arange(64)).tolist() == list(range(0, 64, 2))


def test_so_dense_a_crowd_that_not_all_pairs_can_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PAIRS", 20_000)
    crowd = np.random.default_rng(1).permutation(np.arange(4096, dtype=np.uint64))  # of them 660,000 pairs
    assert leaders(crowd, 3).tolist() == expected(crowd, 3)
