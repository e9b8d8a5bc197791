"""ShardSet: random access to the samples of a dataset directory, by shard and row."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipkit.errors import DatasetError
from clipkit.shards.dataset import is_unfinished
from clipkit.shards.format import sample_key
from clipkit.shards.index import read_index
from clipkit.shards.parquet import read_parquet

_OPEN_FILES = 400
_KEPT_ROWS = (
    2_000_000  # of byte ranges, 32 bytes each: the stream's 64 blocks of 4,000, in shards of any size
)
_RANGES = ["image_offset", "image_bytes", "caption_offset", "caption_bytes"]

Ranges = np.ndarray[Any, np.dtype[np.int64]]


class Sample(NamedTuple):
    """One picture with its caption: `image` as stored (JPEG, usually), `caption` as in the source."""

    key: str
    image: bytes
    caption: str


class SampleError(DatasetError):
    """One sample that cannot be read, in a shard whose others may be whole; the text says why."""


class ShardSet:
    """The committed shards of a dataset directory.

    Samples are read with pread at the manifests' byte ranges; no tar is parsed. A ShardSet can be pickled:
    each process opens its own files. With `unfinished`, what an ingest has committed so far is read. Raises
    DatasetError if the directory has no index, no samples, an ingest that has not finished, or lacks a shard
    that the index lists.
    """

    def __init__(self, directory: str | os.PathLike[str], *, unfinished: bool = False):
        self.directory = Path(directory)
        index = read_index(self.directory)
        if not unfinished and is_unfinished(self.directory):
            raise DatasetError(
                f"{self.directory}: expected a finished ingest, found one that was interrupted; "
                "run the same `clipkit ingest` again, it goes on where it stopped"
            )
        self.names = [shard.name for shard in index.shards]
        self.sizes = np.array([shard.samples for shard in index.shards], dtype=np.int64)
        self.fingerprint = index.fingerprint()
        if not self.sizes.sum():
            raise DatasetError(f"{self.directory}: expected samples, found none; see its failures/ for why")
        self._bytes = np.array([shard.bytes for shard in index.shards], dtype=np.int64)
        index.check_files(self.directory)
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._ranges: OrderedDict[int, Ranges] = OrderedDict()
        self._kept_rows = 0

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptors": OrderedDict(), "_ranges": OrderedDict(), "_kept_rows": 0}

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the files held open; reading opens them again."""
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)
        self.__dict__.get("_descriptors", {}).clear()

    def read(self, shard: int, row: int) -> Sample:
        """Return the sample at `row` (0-based) of shard number `shard` (in index order).

        Raises SampleError if it alone cannot be read, DatasetError if its shard or manifest is damaged.
        """
        image_offset, image_bytes, caption_offset, caption_bytes = self._ranges_of(shard)[row].tolist()
        # The caption follows its picture in the tar: one read brings both.
        length = caption_offset + caption_bytes - image_offset
        try:
            data = os.pread(self._descriptor(shard), length, image_offset)
        except OSError as error:
            raise SampleError(f"cannot be read from disk: {error.strerror}") from error
        if len(data) != length:
            raise DatasetError(
                f"{self.directory / self.names[shard]}: expected {length} bytes at {image_offset}, found "
                f"{len(data)}; is the shard cut off?"
            )
        try:
            caption = data[caption_offset - image_offset :].decode()
        except UnicodeDecodeError:
            raise SampleError("its caption is not UTF-8") from None
        return Sample(self.key(shard, row), data[:image_bytes], caption)

    def key(self, shard: int, row: int) -> str:
        """Return the key of the sample at `row` of shard number `shard`."""
        return sample_key(int(Path(self.names[shard]).stem), row)

    def _descriptor(self, shard: int) -> int:
        descriptor = self._descriptors.get(shard)
        if descriptor is None:
            path = self.directory / self.names[shard]
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise DatasetError(f"{path}: cannot be opened ({error.strerror}); restore it") from error
            self._descriptors[shard] = descriptor
            if len(self._descriptors) > _OPEN_FILES:
                os.close(self._descriptors.popitem(last=False)[1])
        else:
            self._descriptors.move_to_end(shard)
        return descriptor

    def _ranges_of(self, shard: int) -> Ranges:
        ranges = self._ranges.get(shard)
        if ranges is None:
            manifest = (self.directory / self.names[shard]).with_suffix(".parquet")
            ranges = self._read_ranges(manifest, int(self.sizes[shard]), int(self._bytes[shard]))
            self._ranges[shard] = ranges
            self._kept_rows += len(ranges)
            while self._kept_rows > _KEPT_ROWS and len(self._ranges) > 1:
                self._kept_rows -= len(self._ranges.popitem(last=False)[1])
        else:
            self._ranges.move_to_end(shard)
        return ranges

    def _read_ranges(self, path: Path, samples: int, tar_bytes: int) -> Ranges:
        table = read_parquet(path, "the shard's manifest", _RANGES)
        ranges = np.stack([table[name].to_numpy().astype(np.int64) for name in _RANGES], axis=1)
        image, image_bytes, caption, caption_bytes = ranges.T
        possible = (ranges >= 0).all(axis=1) & (image + image_bytes <= caption)
        possible &= caption + caption_bytes <= tar_bytes
        if len(ranges) != samples or not possible.all():
            raise DatasetError(
                f"{path}: expected {samples} samples' byte ranges, found {len(ranges)} or impossible ones"
            )
        return ranges
