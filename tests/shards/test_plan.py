import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.shards.plan import ShardPlan, compact_permutation, permutation

GOLDEN = json.loads((Path(__file__).parent / "plan_golden.json").read_text())


def sizes_of(case: dict[str, Any]) -> list[int]:
    sizes = case["sizes"]
    if isinstance(sizes, dict):
        return [sizes["each"]] * (sizes["shards"] - 1) + [sizes["last"]]
    return list(sizes)


def test_permutation_golden() -> None:
    assert permutation(8, 1, 2, 3).tolist() == GOLDEN["perm"]["n=8; 1, 2, 3"]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"seed{case['seed']}")
def test_plan_golden(case: dict[str, Any]) -> None:
    plan = ShardPlan(sizes_of(case), case["seed"], case["streams"], case["block"])
    assert plan.streams == case["effective_streams"]
    positions, shards, rows = np.array(case["at"]).T
    found_shards, found_rows = plan.locate(positions)
    assert found_shards.tolist() == shards.tolist()
    assert found_rows.tolist() == rows.tolist()
    for batch, expected in case["batch_positions"].items():
        first = int(batch) * case["batch_size"]
        assert plan.positions(first, first + case["batch_size"]).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any),
    seed=st.integers(0, 2**63),
    streams=st.integers(1, 9),
    block=st.integers(1, 30),
    epoch=st.integers(0, 5),
)
def test_each_sample_once_an_epoch(sizes: list[int], seed: int, streams: int, block: int, epoch: int) -> None:
    plan = ShardPlan(sizes, seed, streams, block)
    samples = sum(sizes)
    shards, rows = plan.locate(np.arange(epoch * samples, (epoch + 1) * samples))
    every = {(shard, row) for shard, size in enumerate(sizes) for row in range(size)}
    assert len(shards) == samples
    assert set(zip(shards.tolist(), rows.tolist(), strict=True)) == every


@pytest.mark.parametrize("length", [1, 5, 70_000, 300_000, 1_200_000])
def test_a_compact_permutation_is_the_permutation(length: int) -> None:
    compact = compact_permutation(length, 4, length)
    assert compact.itemsize <= 4
    assert np.array_equal(compact, permutation(length, 4, length))


@settings(max_examples=30, deadline=None)
@given(
    shards=st.integers(1, 600),
    largest=st.sampled_from([1, 30, 1000]),
    seed=st.integers(0, 2**63),
    streams=st.integers(1, 70),
    block=st.integers(1, 90),
    epoch=st.integers(0, 2**33),
)
def test_places_are_those_of_the_definition(
    shards: int, largest: int, seed: int, streams: int, block: int, epoch: int
) -> None:
    """One position after the other, as DESIGN.md defines them, over shards of any size."""
    sizes = np.random.default_rng(seed).integers(0, largest + 1, shards)
    sizes[0] += 1
    plan = ShardPlan(sizes, seed, streams, block)
    samples = int(sizes.sum())
    positions = np.random.default_rng(epoch).integers(0, samples, 50) + epoch * samples
    order = permutation(shards, seed, epoch, 0)
    ends = np.cumsum(sizes[order])
    expected = []
    for position in positions.tolist():
        row, span = divmod(position % samples, plan.streams)
        length, longer = divmod(samples, plan.streams)
        begin, length = span * length + min(span, longer), length + (span < longer)
        number, place = divmod(row, block)
        shuffled = permutation(min(block, length - number * block), seed, epoch, 1 + span, number)
        laid = begin + number * block + int(shuffled[place])
        at = int(np.searchsorted(ends, laid, side="right"))
        expected.append((int(order[at]), laid - int(ends[at]) + int(sizes[order[at]])))
    assert list(zip(*(each.tolist() for each in plan.locate(positions)), strict=True)) == expected


def test_neighbours_come_from_as_far_apart_as_in_a_uniform_shuffle() -> None:
    samples = 400_000
    plan = ShardPlan([1000] * (samples // 1000), 7)
    shards, rows = plan.locate(np.arange(samples))
    distances = np.abs(np.diff(shards * 1000 + rows))
    # Of a uniform shuffle: a third of all on average; closer than a hundredth of all with probability 2%.
    assert distances.mean() == pytest.approx(samples / 3, rel=0.03)
    assert np.mean(distances < samples / 100) == pytest.approx(0.02, abs=0.01)
    assert np.mean(distances == 1) < 20 / samples


def test_an_epochs_order_is_unlike_the_last() -> None:
    samples = 100_000
    plan = ShardPlan([1000] * (samples // 1000), 7)
    shards, rows = plan.locate(np.arange(2 * samples))
    first, second = np.split(shards * 1000 + rows, 2)
    at = np.empty((2, samples))
    at[0, first] = at[1, second] = np.arange(samples)
    # Where a sample stood says nothing about where it stands: six standard deviations of r are 0.02; shards
    # as a whole move, so that the hundred of them give r one of 0.1.
    assert abs(np.corrcoef(at[0], at[1]).item(1)) < 0.4
    assert np.mean(first == second) < 20 / samples
    pairs = [set(zip(order[:-1].tolist(), order[1:].tolist(), strict=True)) for order in (first, second)]
    assert len(pairs[0] & pairs[1]) < 20


@pytest.mark.slow
def test_five_billion_samples_fit_a_small_process() -> None:
    """The plan of one of 1,024 ranks over five million shards, in a fresh process: at most 200 MB in all."""
    script = Path(__file__).parents[2] / "bench" / "plan.py"
    done = subprocess.run(
        [sys.executable, script, "--json"], capture_output=True, text=True, check=True, env=os.environ
    )
    figures = json.loads(done.stdout)
    assert figures["samples"] == 5_000_000_000
    assert figures["peak_bytes"] < 200e6


def test_a_new_order_each_epoch_and_seed() -> None:
    orders = []
    for seed, epoch in itertools.product((0, 1), (0, 1)):
        shards, rows = ShardPlan([50, 50], seed).locate(np.arange(epoch * 100, epoch * 100 + 100))
        orders.append(tuple((shards * 50 + rows).tolist()))
    assert len(set(orders)) == 4


def test_a_plan_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        ShardPlan([0, 0], 0)
    for streams, block in ((0, 4000), (64, 0)):
        with pytest.raises(ValueError, match="of at least 1"):
            ShardPlan([5], 0, streams, block)
