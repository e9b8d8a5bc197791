import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipkit.shards.distribution import PERCENTS, Distribution


@given(st.lists(st.lists(st.integers(0, 2**52)), max_size=4))
def test_percentiles_are_within_a_thousandth(batches: list[list[int]]) -> None:
    distribution = Distribution()
    for batch in batches:
        distribution.add(np.array(batch, np.int64))
    spread = distribution.spread()
    values = sorted(value for batch in batches for value in batch)
    assert spread.values == len(values)
    if not values:
        assert (spread.least, spread.median, spread.greatest) == (0, 0, 0)
        return
    assert (spread.least, spread.greatest) == (values[0], values[-1])
    for percent in PERCENTS:
        exact = values[max(1, -(-percent * len(values) // 100)) - 1]
        found = spread.percentiles[f"p{percent}"]
        assert found == exact if exact < 2048 else exact * 0.999 <= found <= exact
