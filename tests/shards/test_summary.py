"""What `clipkit shards info` counts, against the same counted the long way."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit.errors import DatasetError
from clipkit.shards.repair import repair
from clipkit.shards.summary import Cause, Host, summarize


@pytest.fixture
def dataset(small_dataset: Path, tmp_path: Path) -> Path:
    """A copy of a dataset whose second shard has other values, some of them repeated."""
    copy = shutil.copytree(small_dataset, tmp_path / "dataset")
    path = copy / "000001.parquet"
    rows = pq.read_table(path).to_pylist()
    for number, row in enumerate(rows):
        row["sha256"] = f"{number % 400:064x}"
        row["url"] = ["http://a.example:80/x", "HTTPS://User@B.Example/", "", "http://[::1]:8/"][number % 4]
        row["width"], row["height"] = 20 + number, 5000 - 3 * number
        row["original_format"] = "png" if number % 10 == 0 else "jpeg"
        row["caption"] = "" if number % 2 else "zwei Wörter"
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    return copy


def test_counts_are_those_of_the_manifests(dataset: Path) -> None:
    summary = summarize(dataset)
    rows = [
        row for number in range(3) for row in pq.read_table(dataset / f"{number:06d}.parquet").to_pylist()
    ]
    assert (summary.records, summary.samples, summary.failures, summary.shards) == (2400, 2160, 240, 3)
    assert summary.distinct_images == len({row["sha256"] for row in rows})
    assert summary.repeated_images == 2160 - summary.distinct_images == 600
    assert summary.distinct_captions == len({row["caption"] for row in rows})
    assert summary.empty_captions == 500
    assert summary.formats == dict(Counter(row["original_format"] for row in rows))
    assert summary.extensions == {"jpg": 2160}
    assert summary.causes == [Cause("http_4xx", 240, 1.0, 0)] and summary.retryable == 0
    assert summary.hosts == [
        Host("example.com", 1160, 240),
        Host("[::1]", 250, 0),
        Host("a.example", 250, 0),
        Host("b.example", 250, 0),
    ]
    lengths = sorted(len(row["caption"]) for row in rows)
    found = summary.spreads["caption_characters"]
    assert (found.least, found.greatest, found.values) == (0, lengths[-1], 2160)
    assert found.mean == pytest.approx(sum(lengths) / 2160, abs=0.005)
    assert found.percentiles["p25"] == lengths[-(-25 * 2160 // 100) - 1]
    assert summary.bytes == sum(path.stat().st_size for path in dataset.glob("*.tar"))
    for name in ("width", "height", "image_bytes"):
        values = sorted(row[name] for row in rows)
        found = summary.spreads[name]
        assert (found.least, found.greatest, found.values) == (values[0], values[-1], 2160)
        assert found.mean == pytest.approx(sum(values) / 2160, abs=0.005)
        for percent, value in found.percentiles.items():
            exact = values[-(-int(percent[1:]) * 2160 // 100) - 1]
            assert value == pytest.approx(exact, rel=0 if exact < 2048 else 0.001)
    assert summary.spreads["caption_words"].least == 0 and summary.spreads["caption_words"].greatest == 5


def test_both_ways_to_read_it(dataset: Path) -> None:
    summary = summarize(dataset)
    plain = json.loads(json.dumps(summary.as_json()))
    assert plain["records"] == 2400 and plain["reasons"] == {"http_4xx": 240}
    assert plain["image_bytes"]["percentiles"].keys() == {"p1", "p5", "p25", "p50", "p75", "p95", "p99"}
    assert plain["hosts"][0] == {"host": "example.com", "samples": 1160, "failures": 240}
    for words in (
        "caption words",
        "median",
        "http_4xx",
        "100.0%",
        "example.com",
        "samples repeat one",
        "png",
    ):
        assert words in summary.lines()


def test_names_that_would_steer_a_terminal(dataset: Path) -> None:
    path = dataset / "000000.parquet"
    table = pq.read_table(path)
    for name, value in (("url", "http://evil\x1b[2J\u202e.example/"), ("original_format", "j\x1b[31mpeg")):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), pa.array([value] * len(table)))
    pq.write_table(table, path)
    lines = summarize(dataset).lines()
    assert "evil" in lines and all(character.isprintable() or character == "\n" for character in lines)


def test_what_a_repair_could_not_know_is_left_out(dataset: Path) -> None:
    (dataset / "000001.parquet").unlink()
    repair(dataset)
    summary = summarize(dataset)
    assert summary.samples == 2160 and summary.distinct_images == 1160
    assert sum(summary.formats.values()) == 1160 and summary.spreads["width"].values == 2160


def test_a_manifest_of_other_columns_is_one_line(dataset: Path) -> None:
    path = dataset / "000001.parquet"
    table = pq.read_table(path)
    for damaged in (
        table.drop_columns(["url"]),
        table.slice(0, 5),
        table.set_column(2, "url", table["width"]),
    ):
        pq.write_table(damaged, path)
        with pytest.raises(DatasetError, match=r"000001\.parquet: expected .*columns"):
            summarize(dataset)
