"""Several datasets in one stream."""

import math
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.errors import ConfigError
from clipkit.shards.loader import Batch, batches
from clipkit.shards.mixture import Mixture, MixturePlan
from clipkit.shards.shard_set import ShardSet
from tests.shards.functions import tokenize, transform


def read(shards: ShardSet | Mixture, **settings: Any) -> list[Batch]:
    return list(batches(shards, transform=transform, tokenize=tokenize, **settings))


@pytest.fixture(scope="module")
def sets(small_dataset: Path, tiny_dataset: Path) -> list[ShardSet]:
    return [ShardSet(small_dataset), ShardSet(tiny_dataset)]


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    for expected, found in zip(one, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_mixture_of_one_is_its_own_stream(sets: list[ShardSet]) -> None:
    settings = {"batch_size": 90, "seed": 3, "stop": 4400}
    assert_same(read(sets[0], **settings), read(Mixture(sets[:1]), **settings))


def test_without_weights_an_epoch_is_each_sample_once(sets: list[ShardSet]) -> None:
    mixture = Mixture(sets)
    assert len(mixture) == 2160 + 64
    plan = MixturePlan([each.sizes for each in sets], mixture.shares, 1112, 1)
    for epoch in (0, 1, 5):
        places = [place for batch in range(2) for place in plan.places(epoch * 2 + batch, slice(None))]
        samples = Counter((place.dataset, place.shard, place.row) for place in places)
        assert len(samples) == 2224
        assert set(samples.values()) == {1}


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=5),
    weights=st.lists(st.integers(1, 1000), min_size=5, max_size=5),
    least=st.integers(0, 64),
    first=st.integers(0, 10**12),
)
def test_each_dataset_gives_its_share_of_every_stretch(
    sizes: list[int], weights: list[int], least: int, first: int
) -> None:
    shares = [Fraction(each, sum(weights[: len(sizes)])) for each in weights[: len(sizes)]]
    batch_size = math.ceil(1 / min(shares)) + least
    plan = MixturePlan([np.array([each]) for each in sizes], shares, batch_size, 7, 4, 10)
    taken = plan.given(first * batch_size)
    for batch in range(first, first + 3):
        places = plan.places(batch, slice(None))
        assert len(places) == batch_size
        for number in range(len(sizes)):
            own = sorted(place.position for place in places if place.dataset == number)
            assert own == list(range(taken[number], taken[number] + len(own)))
            taken[number] += len(own)
            exact = (batch + 1) * batch_size * shares[number]
            assert abs(taken[number] - exact) < 1


def test_an_epoch_ends_with_the_first_dataset_or_with_the_last(sets: list[ShardSet]) -> None:
    assert len(Mixture(sets, [1, 1])) == 128
    assert len(Mixture(sets, [1, 1], repeat=True)) == 4320
    assert len(Mixture(sets, [0.9, 0.1])) == pytest.approx(640, abs=1)
    once = read(Mixture(sets, [1, 1]), batch_size=128, stop=128)[0]
    of_tiny = [(p, t) for p, t in zip(once.positions_B.tolist(), once.tokens_BL[:, 0].tolist(), strict=True)]
    assert len(set(of_tiny)) == 128


@pytest.mark.parametrize(("world_size", "workers"), [(1, 2), (2, 0), (3, 1)])
def test_batches_are_the_same_for_all_ranks_workers_and_beginnings(
    sets: list[ShardSet], world_size: int, workers: int
) -> None:
    mixture = Mixture(sets, [3, 1])
    common = {"batch_size": 60, "seed": 9}
    reference = read(mixture, **common, stop=1500)
    assert_same(reference[15:], read(mixture, **common, position=900, stop=1500))
    ranks = [
        read(mixture, **common, stop=1500, rank=rank, world_size=world_size, workers=workers)
        for rank in range(world_size)
    ]
    joined = [Batch(*map(torch.cat, zip(*shares, strict=True))) for shares in zip(*ranks, strict=True)]
    assert_same(reference, joined)


def test_each_rank_gets_its_share_of_each_dataset(sets: list[ShardSet]) -> None:
    plan = MixturePlan([each.sizes for each in sets], Mixture(sets, [3, 1]).shares, 64, 0)
    for rank in range(4):
        places = plan.places(8, slice(rank * 16, (rank + 1) * 16))
        assert Counter(place.dataset for place in places) == {0: 12, 1: 4}


def test_datasets_of_equal_sizes_are_not_shuffled_alike() -> None:
    plan = MixturePlan([np.array([60])] * 2, [Fraction(1, 2)] * 2, 120, 0)
    places = plan.places(0, slice(None))
    rows = [[place.row for place in places if place.dataset == number] for number in (0, 1)]
    assert sorted(rows[0]) == sorted(rows[1])
    assert rows[0] != rows[1]
    assert len({place.key for place in places}) == 120


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -2], [1, float("inf")], [1, float("nan")], [1, 1, 1]])
def test_weights_that_do_not_fit_are_refused(sets: list[ShardSet], weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="a mixture of 2 data sets needs as many weights above 0"):
        Mixture(sets, weights)


def test_a_dataset_that_is_given_twice_is_refused(sets: list[ShardSet]) -> None:
    with pytest.raises(
        ConfigError, match="found the same samples twice: give it once, with a larger --weight"
    ):
        Mixture([*sets, ShardSet(sets[0].source)])


def test_a_batch_too_small_for_each_dataset_is_refused(sets: list[ShardSet]) -> None:
    with pytest.raises(ConfigError, match="less than one of the 34 samples in a batch"):
        read(Mixture(sets), batch_size=34, stop=340)
    assert len(read(Mixture(sets), batch_size=35, stop=350)) == 10
