"""Columns kept from a table, over a whole ingest: in every manifest, in no failure, whatever stopped it."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit.errors import DatasetError
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.engines.engine import Engine, Outcomes
from clipkit.ingest.engines.local import local
from clipkit.ingest.result import IngestResult
from clipkit.ingest.rows import Chunk
from clipkit.ingest.run import ingest
from clipkit.ingest.table_files import table_files
from clipkit.ingest.worker import PartMaker
from clipkit.shards.schemas import FAILURE_SCHEMA
from tests.datasets import contents
from tests.serving import Server, answer, encoded, photo

RECORDS = 1300
KEPT = ["score", "flag", "licence"]
CONFIG = IngestConfig(
    allow_private_hosts=True, image_size=16, workers=2, chunk_rows=100, retries=0, timeout=30
)


@pytest.fixture
def table(server: Server, tmp_path: Path) -> Path:
    """Pictures, every tenth of them a dead link."""
    urls = [server.add(f"/{seed}", answer(encoded(photo(20, 20, seed)))) for seed in range(9)]
    urls.append(server.url("/dead"))
    columns = {
        "url": pa.array([urls[row % 10] for row in range(RECORDS)]),
        "text": pa.array([f"caption {row}" for row in range(RECORDS)]),
        "score": pa.array([None if row % 3 == 0 else row / 8 for row in range(RECORDS)], pa.float32()),
        "flag": pa.array([row % 2 == 0 for row in range(RECORDS)]),
        "licence": pa.array([f"«{row % 4}»" for row in range(RECORDS)]).dictionary_encode(),
        "unwanted": pa.array(range(RECORDS)),
    }
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=333)
    return path


def run(table: Path, out: Path, engine: Engine = local) -> IngestResult:
    return ingest(table_files([table], keep=KEPT), out, CONFIG, engine=engine)


def stopping_after(count: int) -> Engine:
    """An engine that is given so many chunks and interrupted when they have ended."""

    def engine(make: PartMaker, chunks: Iterator[Chunk], workers: int, window: int) -> Outcomes:
        yield from local(make, itertools.islice(chunks, count), workers, window)
        raise KeyboardInterrupt

    return engine


def test_manifests_have_them_and_failures_do_not(table: Path, tmp_path: Path) -> None:
    result = run(table, tmp_path / "dataset")
    assert (result.samples, result.failures, result.shards) == (1170, {"http_4xx": 130}, 2)
    source = pq.read_table(table, columns=KEPT).to_pylist()
    rows = []
    for shard in ("000000", "000001"):
        manifest = pq.read_table(tmp_path / "dataset" / f"{shard}.parquet")
        assert manifest.column_names[-3:] == KEPT
        assert [str(manifest.schema.field(name).type) for name in KEPT] == ["float", "bool", "string"]
        assert manifest.select(KEPT).to_pylist() == [
            source[row] for row in manifest["source_row"].to_pylist()
        ]
        rows += manifest["source_row"].to_pylist()
    assert rows == [row for row in range(RECORDS) if row % 10 != 9]
    (failures,) = (tmp_path / "dataset" / "failures").iterdir()
    assert pq.read_table(failures).schema == FAILURE_SCHEMA


def test_any_interruption_gives_the_same_bytes(table: Path, tmp_path: Path) -> None:
    run(table, tmp_path / "unbroken")
    out = tmp_path / "stopped"
    for count in (5, 3):
        with pytest.raises(KeyboardInterrupt):
            run(table, out, stopping_after(count))
    run(table, out)
    assert contents(out) == contents(tmp_path / "unbroken")


CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "keep_col was": lambda table, out: ingest(table_files([table], keep=["score"]), out, CONFIG),
    "caption_col was": lambda table, out: ingest(table_files([table], None, "licence", KEPT), out, CONFIG),
}


@pytest.mark.parametrize("difference", CHANGES)
def test_other_columns_are_another_dataset(table: Path, tmp_path: Path, difference: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(table, tmp_path / "dataset", stopping_after(2))
    with pytest.raises(DatasetError, match=difference):
        CHANGES[difference](table, tmp_path / "dataset")
