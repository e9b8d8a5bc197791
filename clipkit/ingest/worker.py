"""Chunks in, parts out: what engines map over the source. A pure function of the servers' answers."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import cv2
import pyarrow as pa

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.expected_hash import mismatch
from clipkit.ingest.fetch import fetch
from clipkit.ingest.images import Picture, process
from clipkit.ingest.memory import check_memory
from clipkit.ingest.rows import Chunk, ChunkOutcome, Failed, Fetched, Limit, UrlRow
from clipkit.ingest.unfinished import UnfinishedPart
from clipkit.ingest.unheard import allow_connections
from clipkit.processes import keep_freed_memory
from clipkit.shards.parts import parts_folder

CRASHED = Failed("worker_crashed", "the process died twice on this chunk", attempts=1)
_NEWS_SECONDS = 0.3
SILENT_SECONDS = 2.0  # even when nothing ends, so that a display shows that time goes on

Kept = tuple[pa.Field, ...]
"""Further columns of the manifest, which the rows bring along."""

RowKey = tuple[UnfinishedPart, int]
"""Where a row's outcome belongs: its part, and its place there."""


class Fetch(Protocol):
    """What requests the URLs, as `clipkit.ingest.fetch.fetch` does."""

    def __call__(
        self,
        rows: Iterable[tuple[RowKey, UrlRow] | None],
        config: IngestConfig,
        *,
        limited_by: Callable[[str, Limit], None],
    ) -> Iterator[tuple[RowKey, Fetched | Failed] | None]:
        """Yield what became of each row; tell which host's limit holds others back, and why."""


@dataclass(frozen=True, slots=True)
class Underway:
    """Counts so far of unfinished chunks, each replacing the chunk's earlier ones.

    `limited_by` is a host whose URLs wait for their turn while connections are free, and why; "network": all
    do, and the host is one that answered last.
    """

    chunks: tuple[ChunkOutcome, ...]
    limited_by: tuple[str, Limit] | None = None


@dataclass(frozen=True, slots=True)
class PartMaker:
    """What an engine is given: call it on one chunk, or let it overlap many; picklable.

    The parts belong to pass `pass_number` over the dataset at `directory`. By the hosts of the rows
    `tried_first` an engine on other machines finds out, before all else, whether these have a network.
    """

    directory: Path
    pass_number: int
    config: IngestConfig
    kept: Kept = ()
    fetch: Fetch = fetch
    tried_first: tuple[UrlRow, ...] = ()

    @property
    def parts(self) -> Path:
        """The folder that the parts are written into."""
        return parts_folder(self.directory, self.pass_number)

    def __call__(self, chunk: Chunk) -> ChunkOutcome:
        """Make one part, as `make_part`."""
        return make_part(chunk, self.parts, self.config, self.kept, self.fetch)

    def crashed(self, chunk: Chunk) -> ChunkOutcome:
        """Make the part of a chunk that no worker survives, as `make_crashed_part`."""
        return make_crashed_part(chunk, self.parts, self.kept)

    def stream(self, chunks: Iterable[Chunk | None]) -> Iterator[ChunkOutcome | Underway]:
        """Make a part of each chunk, as `make_parts`."""
        return make_parts(chunks, self.parts, self.config, self.kept, self.fetch)


def make_part(
    chunk: Chunk, folder: Path, config: IngestConfig, kept: Kept = (), fetch: Fetch = fetch
) -> ChunkOutcome:
    """Fetch a chunk's URLs, make the pictures, and write its part into the `folder` of its pass.

    `kept` are the columns that the rows bring along for the manifest. Raises OSError as the file system does.
    """
    news = make_parts([chunk], folder, config, kept, fetch)
    (outcome,) = [each for each in news if isinstance(each, ChunkOutcome)]
    return outcome


def make_parts(
    chunks: Iterable[Chunk | None],
    folder: Path,
    config: IngestConfig,
    kept: Kept = (),
    fetch: Fetch = fetch,
) -> Iterator[ChunkOutcome | Underway]:
    """Make the same part of each chunk as `make_part`, without waiting for the slowest URL of each.

    While some URLs of earlier chunks are on their way, those of later ones are asked for; outcomes come in
    the order the chunks end, and several times a second counts of those at work. A None among `chunks`
    says that the next chunk is not there yet. How many are at work is up to who gives them. Raises
    ConfigError if the system does not allow as many open files as there are to be connections, and
    EngineError if there is not memory enough for a picture.
    """
    cv2.setNumThreads(1)
    keep_freed_memory()
    allow_connections(config.connections)
    with _Parts(folder, kept, early=2 * config.connections) as parts:
        for ended in fetch(parts.rows(iter(chunks)), config, limited_by=parts.limit):
            if ended:
                (part, place), outcome = ended
                received = len(outcome.data) if isinstance(outcome, Fetched) else 0
                parts.add(part, place, _picture(outcome, config, part.chunk.rows[place]), received)
                del outcome, ended
            yield from parts.news()
        yield from parts.rest()


def make_crashed_part(chunk: Chunk, folder: Path, kept: Kept = ()) -> ChunkOutcome:
    """Write the part of a chunk that no worker survives: its URLs are failures that may be tried again."""
    part = UnfinishedPart(chunk, folder, kept)
    for place, row in enumerate(chunk.rows):
        part.add(place, Failed(row.reason, row.problem) if row.problem else CRASHED)
    return part.write()


class _Parts:
    """The parts at work. Whole ones are written by a thread, so that transfers do not wait for the disk."""

    def __init__(self, folder: Path, kept: Kept, early: int):
        self._folder = folder
        self._kept = kept
        self._early = early
        self._unfinished: dict[int, UnfinishedPart] = {}
        self._changed: set[int] = set()
        self._writing: list[Future[ChunkOutcome]] = []
        self._told = time.monotonic()
        self._limited_by: tuple[str, Limit] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        for part in self._unfinished.values():
            part.close()

    def rows(self, chunks: Iterator[Chunk | None]) -> Iterator[tuple[RowKey, UrlRow] | None]:
        """Yield the chunks' rows; the next chunk is asked for some rows before it is needed."""
        following: Chunk | None = None
        while True:
            try:
                chunk, following = following or next(chunks), None
            except StopIteration:
                return
            if chunk is None:
                yield None
                continue
            part = self._unfinished[chunk.number] = UnfinishedPart(chunk, self._folder, self._kept)
            for place, row in enumerate(chunk.rows):
                if following is None and place + self._early >= len(chunk.rows):
                    following = next(chunks, None)
                yield (part, place), row

    def add(self, part: UnfinishedPart, place: int, made: Picture | Failed, received: int) -> None:
        number = part.chunk.number
        part.add(place, made, received)
        self._changed.add(number)
        if part.is_whole:
            self._changed.discard(number)
            del self._unfinished[number]
            self._writing.append(self._thread.submit(part.write))

    def limit(self, host: str, limit: Limit) -> None:
        self._limited_by = host, limit

    def news(self) -> Iterator[ChunkOutcome | Underway]:
        while self._writing and self._writing[0].done():
            yield self._writing.pop(0).result()
        now = time.monotonic()
        patience = _NEWS_SECONDS if self._changed else SILENT_SECONDS
        if self._unfinished and now - self._told >= patience:
            chunks = tuple(self._unfinished[number].so_far() for number in sorted(self._changed))
            yield Underway(chunks, self._limited_by)
            self._changed.clear()
            self._told, self._limited_by = now, None

    def rest(self) -> Iterator[ChunkOutcome]:
        for written in self._writing:
            yield written.result()


def _picture(outcome: Fetched | Failed, config: IngestConfig, row: UrlRow) -> Picture | Failed:
    if isinstance(outcome, Failed):
        return outcome
    made: Picture | Failed = process(outcome.data, config, row.boxes)
    if isinstance(made, Picture) and row.expected:
        differing = mismatch(outcome.data, made.sha256, row.expected)
        made = Failed("hash_mismatch", differing) if differing else made
    if isinstance(made, Failed):
        if made.reason in ("broken_image", "too_many_pixels"):
            check_memory(outcome.data)
        return Failed(made.reason, made.detail, outcome.http_status, outcome.attempts)
    return made
