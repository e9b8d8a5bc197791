"""img2dataset: that tool's downloader requests the URLs, in this machine's processes; the rest is ours."""

from collections.abc import Iterator
from dataclasses import replace

from clipkit.ingest.engines.engine import Outcomes
from clipkit.ingest.engines.local import local
from clipkit.ingest.img2dataset_fetch import fetch
from clipkit.ingest.rows import Chunk
from clipkit.ingest.worker import PartMaker


def with_img2dataset(make_part: PartMaker, chunks: Iterator[Chunk], workers: int, window: int) -> Outcomes:
    """Run as `local` (an Engine), but for the requests."""
    return local(replace(make_part, fetch=fetch), chunks, workers, window)
