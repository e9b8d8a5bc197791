"""A chunk at work: its rows end in any order, its part is written in the source's."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from clipkit.atomic import PICTURES_BUFFER, named
from clipkit.ingest.images import Picture
from clipkit.ingest.rows import Chunk, ChunkOutcome, Failed, UrlRow
from clipkit.locations import is_remote
from clipkit.shards.parts import PartWriter

_FAILURE = ("reason", "detail", "http_status", "attempts", "retryable")
_PICTURE = tuple(field.name for field in fields(Picture) if field.name != "content")


class _Kept(NamedTuple):
    columns: dict[str, Any]  # of the picture, whose content lies at `offset` of the file
    offset: int
    size: int


class UnfinishedPart:
    """What became of a chunk's rows so far; pictures wait in a file without a name in the `folder` of parts,
    or, if that is behind an address, where this machine has its temporary files.

    Raises OSError as the file system does.
    """

    def __init__(self, chunk: Chunk, folder: Path, kept: Iterable[pa.Field] = ()):
        self.chunk = chunk
        self._kept = kept
        self._made: list[_Kept | Failed | None] = [None] * len(chunk.rows)
        self._left = len(chunk.rows)
        self._size = 0
        self._successes = 0
        self._failures: Counter[str] = Counter()
        self._received = 0
        self._folder = folder
        near = None if is_remote(folder) else folder
        self._contents = tempfile.TemporaryFile(dir=near, buffering=PICTURES_BUFFER)  # noqa: SIM115 (closed by `close`)

    @property
    def is_whole(self) -> bool:
        """Whether every row has ended."""
        return not self._left

    def add(self, place: int, made: Picture | Failed, received: int = 0) -> None:
        """Take what became of the row at `place`, for which `received` bytes had come."""
        self._left -= 1
        self._received += received
        if isinstance(made, Failed):
            self._failures[made.reason] += 1
            self._made[place] = made
            return
        self._successes += 1
        with named(self._folder):
            self._contents.write(made.content)
        columns = {name: getattr(made, name) for name in _PICTURE}
        self._made[place] = _Kept(columns, self._size, len(made.content))
        self._size += len(made.content)

    def so_far(self) -> ChunkOutcome:
        """Return the counts of the rows that have ended."""
        return ChunkOutcome(self.chunk.number, self._successes, dict(self._failures), self._received)

    def write(self) -> ChunkOutcome:
        """Write the part, every row having ended."""
        with named(self._folder):
            self._contents.flush()
        with self._contents, PartWriter(self._folder, self.chunk.number, self._kept) as part:
            for row, made in zip(self.chunk.rows, self._made, strict=True):
                columns = _columns(row)
                if isinstance(made, _Kept):
                    content = os.pread(self._contents.fileno(), made.size, made.offset)
                    part.success(columns | made.columns | dict(row.kept or {}), content)
                else:
                    part.failure(columns | {name: getattr(made, name) for name in _FAILURE})
        return self.so_far()

    def close(self) -> None:
        """Let the pictures go."""
        with suppress(OSError):  # a full disk does not take what is still to be written, nor need it
            self._contents.close()


def _columns(row: UrlRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("source", "source_row", "url", "caption")}
