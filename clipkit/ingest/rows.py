"""What flows through ingest: rows of a list, what a request gave, and chunks of rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from clipkit.shards.cache import Wanted
from clipkit.shards.schemas import REASONS

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in shares of a picture's width and height as it lies in its file, Exif aside."""

Limit = Literal["share", "pause", "network"]
"""Why URLs wait although connections are free: their host has its share of them, or asked for a pause, or
nothing answers any more.
"""


class UrlRow(NamedTuple):
    """One record of a source file; `source_row` is its 0-based number there.

    `problem` says why the record is no URL and caption, `reason` which of REASONS that is; `caption` then
    holds the record's text. `kept` are the further columns that go into the manifest. `file` is the path of a
    picture on this machine, which is read instead of requesting `url`; with `span` (offset, bytes) the
    picture is that part of the file, a tar, which may lie behind an address. `expected` is a hash that its
    bytes must have, in hex digits; `boxes` of the picture are blurred.
    """

    source: str
    source_row: int
    url: str
    caption: str
    problem: str | None = None
    kept: Mapping[str, Any] | None = None
    file: str | Wanted | None = None
    reason: str = "bad_row"
    span: tuple[int, int] | None = None
    expected: str | None = None
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetched:
    """A URL's body as served, any content encoding undone; a file's content has no HTTP status."""

    data: bytes
    http_status: int | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a URL gave no sample: one of `REASONS`, and a few words more."""

    reason: str
    detail: str = ""
    http_status: int | None = None
    attempts: int = 0

    @property
    def retryable(self) -> bool:
        """Whether trying again may help."""
        return REASONS[self.reason]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of the source: the unit of work. Chunks are numbered from 0."""

    number: int
    rows: tuple[UrlRow, ...]


@dataclass(frozen=True, slots=True)
class ChunkOutcome:
    """What became of a chunk: its part is complete on disk. `bytes` were received for it."""

    number: int
    successes: int
    failures: dict[str, int]
    bytes: int
