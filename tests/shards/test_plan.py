import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.shards.plan import ShardPlan, permutation

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
        assert plan.batch_positions(int(batch), case["batch_size"]).tolist() == expected


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


def test_a_new_order_each_epoch_and_seed() -> None:
    orders = []
    for seed, epoch in itertools.product((0, 1), (0, 1)):
        shards, rows = ShardPlan([50, 50], seed).locate(np.arange(epoch * 100, epoch * 100 + 100))
        orders.append(tuple((shards * 50 + rows).tolist()))
    assert len(set(orders)) == 4


def test_a_plan_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        ShardPlan([0, 0], 0)
