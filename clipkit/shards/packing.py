"""Packing: the samples of finished parts, in source order, into shards of exactly 1,000.

What is written follows from the parts alone, so any number of workers and interruptions gives the same bytes.
A shard is sealed as soon as the parts under it are complete; parts go once the index lists what was in them.
"""

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipkit.errors import DatasetError
from clipkit.locations import downloaded, each_of, is_remote, remove_tree
from clipkit.shards.failure_files import write_failures
from clipkit.shards.format import SHARD_SAMPLES
from clipkit.shards.index import INDEX_FILE, Index, read_index
from clipkit.shards.parts import PARTS, complete_parts, make_parts_folder, part_paths, read_part
from clipkit.shards.schemas import FAILURE_SCHEMA
from clipkit.shards.writing import discard_unlisted, write_shard, write_sizes

FAILURE_FILE_CHUNKS = 100

Rows = np.ndarray[tuple[int], np.dtype[np.int64]]


class _Piece(NamedTuple):
    """Consecutive samples of one part that no shard holds yet; `rows` are their places in its table."""

    chunk: int
    samples: pa.Table
    rows: Rows

    def split(self, count: int) -> tuple["_Piece", "_Piece"]:
        first = _Piece(self.chunk, self.samples.slice(0, count), self.rows[:count])
        return first, _Piece(self.chunk, self.samples.slice(count), self.rows[count:])


class Packer:
    """Packs the parts of one pass into a dataset directory; create it once, `add` each part, then `finish`.

    Continues where the index says that an earlier one stopped; a pass's first sample begins a new shard. The
    parts are to be written into its folder `parts`.
    Raises DatasetError for an index that cannot be read, OSError as the file system does; a shard is either
    committed whole or does not exist.
    """

    def __init__(self, directory: Path, *, commit_seconds: float = 5.0):
        self._directory = directory
        self._commit_seconds = commit_seconds
        self._index = read_index(directory) if (directory / INDEX_FILE).exists() else Index()
        progress = self._index.progress
        self.parts = make_parts_folder(directory, progress.pass_number)
        self._failures = progress.failures
        self._pieces: deque[_Piece] = deque()
        self._available = 0
        self._loaded = progress.chunk
        self._complete = set(complete_parts(self.parts))
        self._removed_to = 0  # of the parts before it the tars are gone
        self._committed = time.monotonic()
        discard_unlisted(directory, self._index)
        self._remove_parts(progress.chunk)
        self._load_complete(from_row=progress.row)

    def is_done(self, chunk: int) -> bool:
        """Tell whether the chunk needs no work: packed already, or its part is complete on disk."""
        return chunk < self._loaded or chunk in self._complete

    def add(self, chunk: int) -> None:
        """Take note that the chunk's part is complete; seal the shards that became possible."""
        self._complete.add(chunk)
        if chunk == self._loaded:
            self._load_complete()
        if self._seal_full() and time.monotonic() - self._committed > self._commit_seconds:
            self._commit()

    def finish(self, total_chunks: int) -> Index:
        """Seal the last, possibly shorter, shard, commit, and remove the parts. Returns the final index."""
        if self._loaded != total_chunks:
            raise ValueError(f"parts 0…{total_chunks - 1} must be complete, {self._loaded} is not")
        self._seal_full()
        if self._available:
            self._seal(self._available)
        self._file_failures(total_chunks)
        write_sizes(self._directory, self._index)
        self._commit()
        remove_tree(self._directory / PARTS)
        return self._index

    def _load_complete(self, from_row: int = 0) -> None:
        while self._loaded in self._complete:
            table = read_part(self.parts, self._loaded)
            rows = np.flatnonzero(pc.is_null(table["reason"]).to_numpy())
            rows = rows[rows >= from_row]
            if len(rows):
                self._pieces.append(_Piece(self._loaded, table.take(pa.array(rows)), rows))
                self._available += len(rows)
            self._loaded += 1
            from_row = 0

    def _seal_full(self) -> bool:
        sealed = self._available >= SHARD_SAMPLES
        while self._available >= SHARD_SAMPLES:
            self._seal(SHARD_SAMPLES)
        return sealed

    def _seal(self, count: int) -> None:
        pieces = []
        self._available -= count
        while count:
            piece = self._pieces.popleft()
            if len(piece.rows) > count:
                piece, rest = piece.split(count)
                self._pieces.appendleft(rest)
            pieces.append(piece)
            count -= len(piece.rows)
        samples = pa.concat_tables([piece.samples for piece in pieces])
        # Not their count: a repair may have left a broken one out.
        number = max((int(shard.name[:6]) + 1 for shard in self._index.shards), default=0)
        images = _images(self.parts, pieces)
        self._index.entries.append(write_shard(self._directory, number, samples, images))

    def _commit(self) -> None:
        packed_to = self._pieces[0].chunk if self._pieces else self._loaded
        self._file_failures(self._loaded - self._loaded % FAILURE_FILE_CHUNKS)
        row = int(self._pieces[0].rows[0]) if self._pieces else 0
        self._index.progress = self._index.progress._replace(
            chunk=packed_to, row=row, failures=self._failures
        )
        self._index.write(self._directory)
        self._committed = time.monotonic()
        self._remove_parts(packed_to)

    def _file_failures(self, end: int) -> None:
        while self._failures < end:
            stop = min(self._failures + FAILURE_FILE_CHUNKS, end)
            number = self._index.progress.first_failure_file + self._failures // FAILURE_FILE_CHUNKS
            failures = _failures(self.parts, range(self._failures, stop))
            if len(failures):
                self._index.entries.append(write_failures(self._directory, number, failures))
            self._failures = stop

    def _remove_parts(self, packed_to: int) -> None:
        packed = [chunk for chunk in self._complete if self._removed_to <= chunk < packed_to]
        done = [chunk for chunk in self._complete if chunk < min(packed_to, self._failures)]
        _remove(part_paths(self.parts, chunk)[0] for chunk in packed)
        _remove(part_paths(self.parts, chunk)[1] for chunk in done)
        self._removed_to = packed_to
        self._complete.difference_update(done)


def _remove(paths: Iterable[Path]) -> None:
    there = list(paths)
    for _ in each_of(lambda path: path.unlink(missing_ok=True), there, remote=any(map(is_remote, there))):
        pass


def _images(parts: Path, pieces: list[_Piece]) -> Iterator[bytes]:
    for piece in pieces:
        part = part_paths(parts, piece.chunk)[0]
        with downloaded(part) as path, path.open("rb") as tar:
            offsets, sizes = piece.samples["image_offset"], piece.samples["image_bytes"]
            for offset, size in zip(offsets.to_pylist(), sizes.to_pylist(), strict=True):
                image = os.pread(tar.fileno(), size, offset)
                if len(image) != size:
                    raise DatasetError(
                        f"{part}: expected {size} bytes at {offset}, found {len(image)}; "
                        "remove the part's two files and run the same ingest again"
                    )
                yield image


def _failures(parts: Path, chunks: range) -> pa.Table:
    tables = []
    for part in each_of(partial(read_part, parts), chunks, remote=is_remote(parts)):
        tables.append(part.filter(pc.is_valid(part["reason"])).select(FAILURE_SCHEMA.names))
    return pa.concat_tables(tables).combine_chunks()
