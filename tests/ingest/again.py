"""A server that gets better, a list of its pictures, and datasets that take more of it in further passes."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pyarrow.parquet as pq

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.result import IngestResult
from clipkit.ingest.run import ingest
from clipkit.ingest.table_files import table_files
from clipkit.shards.index import read_index
from clipkit.shards.shard_set import ShardSet
from tests.serving import Server, answer, encoded, photo

RECORDS = 1300
CONFIG = IngestConfig(
    allow_private_hosts=True, image_size=32, workers=2, chunk_rows=100, backoff=0.01, retries=0, timeout=30
)
BUSY, GONE, LATE = 3, 5, 7  # rows modulo 10: 503 while the server is ill, 404 always, 503 for longer


class Illness:
    """How ill the server is: 2 at first, 1 when the busy rows are well again, 0 when all are."""

    level = 2


def make_list(server: Server, illness: Illness, folder: Path) -> Path:
    """Write a list of RECORDS pictures, and let the server answer for them as ill as it is."""
    pictures = [answer(encoded(photo(40 + seed, 50, seed))) for seed in range(40)]

    def route(row: int) -> None:
        def respond(request: BaseHTTPRequestHandler) -> None:
            sick = {BUSY: illness.level > 1, GONE: True, LATE: illness.level > 0}.get(row % 10)
            failure = answer(b"", 404 if row % 10 == GONE else 503)
            (failure if sick else pictures[row % 40])(request)

        server.add(f"/{row}.jpg", respond)

    for row in range(RECORDS):
        route(row)
    path = folder / "list.csv"
    records = [f"{server.url(f'/{row}.jpg')},picture {row},{row * 2}" for row in range(RECORDS)]
    path.write_text("url,caption,twice\n" + "\n".join(records))
    return path


def run(path: Path, out: Path, *, retry_failed: bool = False, **settings: object) -> IngestResult:
    source = table_files([path], keep=["twice"])
    return ingest(source, out, CONFIG.model_copy(update=settings), retry_failed=retry_failed)


def rows_of(out: Path) -> Iterator[tuple[int, bool]]:
    """The source row of every sample and failure, and whether it is a sample."""
    index = read_index(out)
    for shard in index.shards:
        manifest = pq.read_table((out / shard.name).with_suffix(".parquet"))
        assert len(manifest) == shard.samples
        for row in manifest.select(["source_row", "caption", "twice"]).to_pylist():
            assert (row["caption"], row["twice"]) == (
                f"picture {row['source_row']}",
                f"{row['source_row'] * 2}",
            )
            yield row["source_row"], True
    for entry in index.failure_files:
        for number in pq.read_table(out / entry.name)["source_row"].to_pylist():
            yield number, False


def check_accounts(out: Path, records: int, samples: int) -> None:
    rows = list(rows_of(out))
    assert sorted(number for number, _ in rows) == list(range(records))
    assert sum(is_sample for _, is_sample in rows) == samples == len(ShardSet(out))
    totals = json.loads((out / "dataset.json").read_text())["totals"]
    assert (totals["records"], totals["samples"], totals["failures"]) == (records, samples, records - samples)
    assert {str(path.relative_to(out)) for path in out.rglob("failures/*.parquet")} == {
        entry.name for entry in read_index(out).failure_files
    }
    assert not (out / "parts").exists()
