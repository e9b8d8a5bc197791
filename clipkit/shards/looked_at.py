"""Samples of a dataset to be looked at, a few of many: of a tar only their pictures' bytes are read."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from clipkit.errors import DatasetError
from clipkit.locations import each_of, is_remote, read_range
from clipkit.shards.index import IndexEntry, read_index
from clipkit.shards.parquet import REMEDY, read_parquet
from clipkit.shards.schemas import begins_as_manifest


class Row(NamedTuple):
    """A sample: the dataset that it is of, its shard, and its row in the manifest."""

    directory: Path
    shard: str
    values: dict[str, Any]

    def picture(self) -> bytes:
        """Return the picture as it is stored. Raises DatasetError if its bytes are not there."""
        path, length = self.directory / self.shard, self.values["image_bytes"]
        offset = self.values["image_offset"]
        if None in (offset, length) or offset < 0 or length < 0:
            raise DatasetError(f"{path}: expected a picture's byte range, found {length} bytes at {offset}")
        try:
            content = read_range(path, offset, length)
        except OSError as error:
            raise DatasetError(f"{path}: expected the shard, found: {error.strerror or error}") from None
        if len(content) != length:
            raise DatasetError(f"{path}: expected {length:,} bytes of a picture, found the file's end")
        return content


class LookedAt(NamedTuple):
    """A sample with its picture as it is stored, or why that cannot be read."""

    row: Row
    picture: bytes | DatasetError


class Samples:
    """The samples of a dataset, in the order of its index. Raises DatasetError as `read_index`."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._shards = {shard.name: shard for shard in read_index(directory).shards}

    def __len__(self) -> int:
        return sum(shard.samples for shard in self._shards.values())

    def row(self, shard: str, row: int) -> Row:
        """Return the row at this place of the shard of that name. Raises DatasetError if there is none."""
        if shard not in self._shards or not 0 <= row < self._shards[shard].samples:
            known = f"{len(self):,} samples in {len(self._shards):,} shards"
            raise DatasetError(
                f"{self._directory}: expected a key of its {known}, found none such in {shard}"
            )
        return self._rows((self._shards[shard], [row]))[0]

    def at(self, places: Iterable[int]) -> Iterator[LookedAt]:
        """Return the samples at these places, which rise. Raises DatasetError for a manifest."""
        by_shard: dict[IndexEntry, list[int]] = {}
        first = end = 0
        shards = iter(self._shards.values())
        for place in places:
            while place >= end:
                shard = next(shards)
                first, end = end, end + shard.samples
            by_shard.setdefault(shard, []).append(place - first)
        remote = is_remote(self._directory)
        rows = [row for of_shard in each_of(self._rows, by_shard.items(), remote=remote) for row in of_shard]
        return each_of(_looked_at, rows, remote=remote)  # pictures may be many and large: few are held

    def _rows(self, of_shard: tuple[IndexEntry, list[int]]) -> list[Row]:
        shard, rows = of_shard
        path = (self._directory / shard.name).with_suffix(".parquet")
        table = read_parquet(path, "the shard's manifest", sha256=shard.manifest_sha256)
        if not begins_as_manifest(table.schema):
            raise DatasetError(f"{path}: expected a manifest's columns, found others; {REMEDY}")
        if max(rows) >= len(table):
            raise DatasetError(
                f"{self._directory}: expected {max(rows) + 1:,} rows in the manifest of {shard.name}"
            )
        return [Row(self._directory, shard.name, row) for row in table.take(pa.array(rows)).to_pylist()]


def _looked_at(row: Row) -> LookedAt:
    try:
        return LookedAt(row, row.picture())
    except DatasetError as error:  # what a store says is none: the other pictures would show the same
        return LookedAt(row, error)
