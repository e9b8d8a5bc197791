"""A chunk in, a part out: what engines map over the source. A pure function of the servers' answers."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.images import Picture, process
from clipkit.ingest.obtain import obtain
from clipkit.ingest.rows import Chunk, ChunkOutcome, Failed, Fetched, UrlRow
from clipkit.shards.parts import PartWriter

CRASHED = Failed("worker_crashed", "the process died twice on this chunk", attempts=1)

_FAILURE = ("reason", "detail", "http_status", "attempts", "retryable")
_PICTURE = tuple(field.name for field in fields(Picture) if field.name != "jpeg")


def make_part(
    chunk: Chunk, directory: Path, config: IngestConfig, kept: Iterable[pa.Field] = ()
) -> ChunkOutcome:
    """Fetch a chunk's URLs, make the pictures, and write its part into the dataset at `directory`.

    `kept` are the columns that the rows bring along for the manifest. Rows are written in source order,
    whatever order they end in. Raises OSError as the file system does.
    """
    cv2.setNumThreads(1)
    received = 0
    counts = _Counts()
    ended: dict[int, Picture | Failed] = {}
    with PartWriter(directory, chunk.number, kept) as part:
        written = 0
        for index, outcome in obtain(chunk.rows, config):
            if isinstance(outcome, Fetched):
                received += len(outcome.data)
            ended[index] = _picture(outcome, config)
            while written in ended:
                _write(part, chunk.rows[written], ended.pop(written), counts)
                written += 1
    return ChunkOutcome(chunk.number, counts.successes, dict(counts.failures), received)


def make_crashed_part(chunk: Chunk, directory: Path) -> ChunkOutcome:
    """Write the part of a chunk that no worker survives: every row a failure that may be tried again."""
    counts = _Counts()
    with PartWriter(directory, chunk.number) as part:
        for row in chunk.rows:
            _write(part, row, CRASHED, counts)
    return ChunkOutcome(chunk.number, 0, dict(counts.failures), 0)


class _Counts:
    def __init__(self) -> None:
        self.successes = 0
        self.failures: Counter[str] = Counter()


def _picture(outcome: Fetched | Failed, config: IngestConfig) -> Picture | Failed:
    if isinstance(outcome, Failed):
        return outcome
    made = process(outcome.data, config)
    if isinstance(made, Failed):
        return Failed(made.reason, made.detail, outcome.http_status, outcome.attempts)
    return made


def _write(part: PartWriter, row: UrlRow, made: Picture | Failed, counts: _Counts) -> None:
    columns: dict[str, Any] = {
        "source": row.source,
        "source_row": row.source_row,
        "url": row.url,
        "caption": row.caption,
    }
    if isinstance(made, Failed):
        counts.failures[made.reason] += 1
        part.failure(columns | {name: getattr(made, name) for name in _FAILURE})
    else:
        counts.successes += 1
        part.success(
            columns | dict(row.kept or {}) | {name: getattr(made, name) for name in _PICTURE}, made.jpeg
        )
