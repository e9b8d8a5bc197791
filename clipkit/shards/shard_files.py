"""What a ShardSet reads from: shards by number, each a tar with the byte ranges of its samples."""

import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from clipkit.errors import DatasetError
from clipkit.locations import is_remote, opened
from clipkit.shards.cache import Cache, Wanted
from clipkit.shards.dataset import is_unfinished
from clipkit.shards.format import sample_key
from clipkit.shards.index import read_index
from clipkit.shards.parquet import REMEDY, read_parquet
from clipkit.shards.schemas import MANIFEST_SCHEMA

Int64s = np.ndarray[Any, np.dtype[np.int64]]
RANGES = ["image_offset", "image_bytes", "caption_offset", "caption_bytes"]


class SampleError(DatasetError):
    """One sample that cannot be read, in a shard whose others may be whole; the text says why."""


class Rows(NamedTuple):
    """The byte ranges of a shard's samples, int64 (samples, 4), columns RANGES.

    `fields` names for each sample the field of its JSON that is the caption, None where all is caption;
    `keys` are the samples' keys, None where they follow from shard and row.
    """

    ranges: Int64s
    fields: list[str | None] | None = None
    keys: pa.ChunkedArray | None = None


class ShardFiles(Protocol):
    """Shards by number, of `sizes` samples and `tar_bytes`; picklable.

    `fingerprint` is a SHA-256 (hex) that another content does not have.
    """

    names: list[str]
    sizes: Int64s
    tar_bytes: Int64s
    fingerprint: str
    remote: bool

    def place(self, shard: int) -> str:
        """Return where the shard lies, for messages."""

    def open(self, shard: int) -> int:
        """Return a descriptor of a shard's tar. Raises DatasetError if it is missing or damaged."""

    def rows(self, shard: int) -> Rows:
        """Return where a shard's samples lie. Raises DatasetError if that is not known, or impossible."""

    def short_sides(self, shard: int) -> Int64s | None:
        """Return the shorter sides of a shard's pictures in pixels; None where that is not written down."""

    def caption(self, text: bytes, rows: Rows, row: int) -> str:
        """Return the caption that a sample's bytes are. Raises SampleError if they are none."""

    def fill(self, shard: int) -> None:
        """Have what lies elsewhere copied to this machine, to be opened soon."""

    def key(self, shard: int, rows: Rows, row: int) -> str:
        """Return a sample's key."""


class DatasetFiles:
    """The committed shards of a dataset directory, here or behind an address."""

    def __init__(self, directory: Path, *, unfinished: bool = False):
        # Absolute: the program that reads may change its own directory meanwhile.
        self.directory = directory if is_remote(directory) else directory.absolute()
        index = read_index(directory)
        if not unfinished and is_unfinished(directory):
            raise DatasetError(
                f"{directory}: expected a finished dataset, found one that was interrupted; "
                "run the same `clipkit ingest` or `clipkit shards …` again, it goes on where it stopped"
            )
        self.names = [shard.name for shard in index.shards]
        self.sizes = np.array([shard.samples for shard in index.shards], dtype=np.int64)
        self.fingerprint = index.fingerprint()
        if not self.sizes.sum():
            raise DatasetError(f"{directory}: expected samples, found none; see its failures/ for why")
        manifest_bytes = index.check_files(directory)
        self.tar_bytes = np.array([shard.bytes for shard in index.shards], dtype=np.int64)
        self._sha256 = [shard.sha256 for shard in index.shards] if is_remote(directory) else []
        hashes = b"".join(bytes.fromhex(str(shard.manifest_sha256)) for shard in index.shards)
        self._manifest_sha256 = np.frombuffer(hashes, np.uint8).reshape(len(self.names), 32)
        self.remote = is_remote(directory)
        self._cache = Cache() if self.remote else None
        self._manifest_bytes = np.array(manifest_bytes if self.remote else [], dtype=np.int64)

    def place(self, shard: int) -> str:
        """Return where the shard lies, for messages."""
        return str(self.directory / self.names[shard])

    def open(self, shard: int) -> int:
        """Return a descriptor of a shard's tar. Raises DatasetError if it is missing or damaged."""
        if self._cache:
            return self._cache.open(self._wanted(shard))
        path = self.directory / self.names[shard]
        try:
            descriptor = opened(path)
        except OSError as error:
            raise DatasetError(f"{path}: cannot be opened ({error.strerror}); restore it") from error
        found = os.fstat(descriptor).st_size
        if found != self.tar_bytes[shard]:
            os.close(descriptor)
            raise DatasetError(
                f"{path}: expected {self.tar_bytes[shard]} bytes as the index says, found {found}; restore it"
            )
        return descriptor

    def rows(self, shard: int) -> Rows:
        """Return what the manifest says. Raises DatasetError if it is missing or damaged."""
        ranges = self._columns(shard, RANGES)
        check_ranges(str(self._manifest(shard)), ranges, int(self.sizes[shard]), int(self.tar_bytes[shard]))
        return Rows(ranges)

    def short_sides(self, shard: int) -> Int64s:
        """Return what the manifest says. Raises DatasetError if it is missing or damaged."""
        sides: Int64s = self._columns(shard, ["width", "height"]).min(axis=1)
        return sides

    def _manifest(self, shard: int) -> Path:
        return (self.directory / self.names[shard]).with_suffix(".parquet")

    def _columns(self, shard: int, names: list[str]) -> Int64s:
        wanted = self._wanted_manifest(shard)
        path, sha256 = wanted.source, wanted.sha256
        read = partial(self._cache.read, wanted) if self._cache and wanted.bytes > 0 else None
        table = read_parquet(path, "the shard's manifest", names, sha256, read=read)
        if strange := [name for name in names if table.schema.field(name) != MANIFEST_SCHEMA.field(name)]:
            raise DatasetError(f"{path}: expected numbers in the column {strange[0]}, found others; {REMEDY}")
        return np.stack([table[name].to_numpy().astype(np.int64) for name in names], axis=1)

    def caption(self, text: bytes, rows: Rows, row: int) -> str:
        """Return the caption. Raises SampleError if the bytes are no UTF-8."""
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise SampleError("its caption is not UTF-8") from None

    def fill(self, shard: int) -> None:
        """Have a shard behind an address, and its manifest, copied into the cache."""
        if self._cache:
            manifest = self._wanted_manifest(shard)
            for wanted in ([manifest] if manifest.bytes > 0 else []) + [self._wanted(shard)]:
                self._cache.fill(wanted)

    def key(self, shard: int, rows: Rows, row: int) -> str:
        """Return a sample's key."""
        return sample_key(int(Path(self.names[shard]).stem), row)

    def _wanted_manifest(self, shard: int) -> Wanted:
        count = int(self._manifest_bytes[shard]) if self._cache else 0  # 0: a listing does not tell
        return Wanted(self._manifest(shard), count, self._manifest_sha256[shard].tobytes().hex())

    def _wanted(self, shard: int) -> Wanted:
        path = self.directory / self.names[shard]
        return Wanted(path, int(self.tar_bytes[shard]), self._sha256[shard])


def check_ranges(place: str, ranges: Int64s, samples: int, tar_bytes: int) -> None:
    """Raise DatasetError if the ranges are not of so many samples within a tar of so many bytes."""
    image, image_bytes, caption, caption_bytes = ranges.T
    possible = (ranges >= 0).all(axis=1)
    # Not of sums: they may be more than an int64 holds.
    possible &= (image <= tar_bytes - image_bytes) & (caption <= tar_bytes - caption_bytes)
    if len(ranges) != samples or not possible.all():
        raise DatasetError(
            f"{place}: expected {samples} samples' byte ranges, found {len(ranges)} or impossible ones"
        )
