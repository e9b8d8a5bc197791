"""Hashes that a list gives of its pictures: only what is served with those bytes becomes a sample."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit.errors import DatasetError, SourceError
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.run import ingest
from clipkit.ingest.table_files import table_files
from tests.serving import Server, answer, encoded, photo

CONFIG = IngestConfig(allow_private_hosts=True, workers=1, retries=0, timeout=30)


def listed(path: Path, urls: list[str], hashes: list[str | None]) -> Path:
    captions = [f"caption {row}" for row in range(len(urls))]
    scores = list(range(len(urls)))
    pq.write_table(pa.table({"url": urls, "text": captions, "score": scores, "hash": hashes}), path)
    return path


def test_what_has_other_bytes_is_no_sample(server: Server, tmp_path: Path) -> None:
    pictures = [encoded(photo(20, 20, seed)) for seed in range(10)]
    urls = [server.add(f"/{seed}", answer(data)) for seed, data in enumerate(pictures)]
    hashes: list[str | None] = [
        *(hashlib.new(name, pictures[row]).hexdigest() for row, name in enumerate(("md5", "sha1", "sha512"))),
        f" {hashlib.sha256(pictures[3]).hexdigest().upper()} ",
        *(hashlib.new(name, b"before").hexdigest() for name in ("md5", "sha1", "sha512", "sha256")),
        None,
        "of no use",
    ]
    table = listed(tmp_path / "list.parquet", urls, hashes)
    out = tmp_path / "dataset"
    result = ingest(table_files([table], keep=["score"], hash_column="hash"), out, CONFIG)
    assert (result.samples, Counter(result.failures)) == (4, Counter(hash_mismatch=4, bad_row=2))
    manifest = pq.read_table(out / "000000.parquet")
    assert manifest["score"].to_pylist() == [0, 1, 2, 3]
    failures = pq.read_table(out / "failures").to_pylist()
    assert (
        failures[3]["detail"]
        == f"expected sha256 {hashes[7]}, found {hashlib.sha256(pictures[7]).hexdigest()}"
    )
    assert (failures[3]["http_status"], failures[3]["retryable"]) == (200, False)
    assert [row["detail"].rpartition(", ")[2] for row in failures[4:]] == [
        "found nothing",
        "found 'of no use'",
    ]
    assert failures[5]["url"] == urls[9]
    with pytest.raises(DatasetError, match="hash_col"):  # another dataset, for others would have failed
        ingest(table_files([table], keep=["score"]), out, CONFIG)


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    table = listed(tmp_path / "list.parquet", ["http://h/"], [None])
    with pytest.raises(
        SourceError, match=r"one column named 'sha256', found none .* name it with --hash-col"
    ):
        table_files([table], hash_column="sha256")


def test_datasets_made_without_hashes_are_continued_as_before(tmp_path: Path) -> None:
    table = listed(tmp_path / "list.parquet", ["http://h/"], [None])
    assert "hash_col" not in json.dumps(dict(table_files([table]).reading))
