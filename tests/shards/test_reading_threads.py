"""Several threads that read one set, of which more is read than may be kept open or known."""

import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipkit.shards import csv_set, shard_set
from clipkit.shards.csv_set import CsvSet
from clipkit.shards.sample_set import SampleSet
from clipkit.shards.shard_set import ShardSet
from tests.conftest import picture
from tests.datasets import everything
from tests.tars import write_tar


@pytest.fixture(autouse=True)
def hurried_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(shard_set, "_OPEN_FILES", 4)
    monkeypatch.setattr(shard_set, "_KEPT_ROWS", 12)
    monkeypatch.setattr(csv_set, "_KEPT_BYTES", 30_000)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.slow
def test_each_gets_the_samples_that_it_asks_for(tmp_path: Path) -> None:
    for number in range(30):
        samples = [
            {"__key__": f"{number}-{row}", "jpg": b"jpg", "txt": f"{number}-{row}"} for row in range(3)
        ]
        write_tar(tmp_path / f"{number:02}.tar", samples)
    check(ShardSet(tmp_path))


def test_each_gets_the_records_that_it_asks_for(tmp_path: Path) -> None:
    (tmp_path / "one.jpg").write_bytes(picture(1))
    lines = "".join(f"one.jpg\t{number}\n" for number in range(2500))
    (tmp_path / "table.csv").write_text(f"filepath\ttitle\n{lines}")
    check(CsvSet(tmp_path / "table.csv"), 100)


def check(data: SampleSet, times: int = 1000) -> None:
    expected = everything(data)
    places = [(shard, row) for shard, size in enumerate(data.sizes.tolist()) for row in range(size)]

    def wrong(seed: int) -> int:
        chosen = random.Random(seed).choices(range(len(places)), k=times)
        return sum(data.read(*places[number]) != expected[number] for number in chosen)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(wrong, range(8))) == [0] * 8
