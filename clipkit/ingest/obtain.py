"""The bytes behind rows, wherever they lie: read from this machine, or requested."""

from collections.abc import Iterator, Sequence

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.fetch import fetch
from clipkit.ingest.local_files import read_file
from clipkit.ingest.rows import Failed, Fetched, UrlRow


def obtain(rows: Sequence[UrlRow], config: IngestConfig) -> Iterator[tuple[int, Fetched | Failed]]:
    """Yield (place in `rows`, outcome) for each row: of files in their order, of URLs as `fetch` does."""
    requested = []
    for place, row in enumerate(rows):
        if row.problem is not None:
            yield place, Failed("bad_row", row.problem)
        elif row.file is not None:
            yield place, read_file(row.url, row.file, config.max_bytes)
        else:
            requested.append(place)
    if requested:
        for place, outcome in fetch([rows[place] for place in requested], config):
            yield requested[place], outcome
