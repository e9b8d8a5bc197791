import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipkit.shards.records import RecordSet

ROWS = st.integers(0, 300) | st.integers(65_530, 65_540) | st.integers(0, 2**62)


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), ROWS), max_size=20), max_size=5))
def test_who_was_there_already_is_told(calls: list[list[tuple[str, int]]]) -> None:
    records, seen = RecordSet(), set[tuple[str, int]]()
    for call in calls:
        sources = sorted({source for source, _ in call})
        of_source = np.array([sources.index(source) for source, _ in call], np.int64)
        found = records.add(sources, of_source, np.array([row for _, row in call], np.int64)).tolist()
        expected = []
        for place, record in enumerate(call):
            if record in seen:
                expected.append(place)
            seen.add(record)
        assert found == expected
    for source in "abc":
        rows = {row for name, row in seen if name == source}
        assert records.absent(source, 400).tolist() == [row for row in range(400) if row not in rows]


def test_full_pages() -> None:
    records = RecordSet()
    rows = np.random.default_rng(0).permutation(200_000)
    for part in np.split(rows, 20):
        assert len(records.add(["x"], np.zeros(len(part), np.int64), part)) == 0
    assert len(records.add(["x"], np.zeros(3, np.int64), np.array([5, 199_999, 200_000]))) == 2
    assert records.absent("x", 200_002).tolist() == [200_001]
