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

_OPEN_SHARDS = 400
_RANGES = ["image_offset", "image_bytes", "caption_offset", "caption_bytes"]


class Sample(NamedTuple):
    """One picture with its caption: `image` as stored (JPEG, usually), `caption` as in the source."""

    key: str
    image: bytes
    caption: str


class _OpenShard(NamedTuple):
    descriptor: int
    ranges: np.ndarray[Any, np.dtype[np.int64]]


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
                f"{self.directory}: expected a finished dataset, found one that was interrupted; "
                "run the same `clipkit ingest` or `clipkit shards …` again, it goes on where it stopped"
            )
        self.names = [shard.name for shard in index.shards]
        self.sizes = np.array([shard.samples for shard in index.shards], dtype=np.int64)
        self.fingerprint = index.fingerprint()
        if not self.sizes.sum():
            raise DatasetError(f"{self.directory}: expected samples, found none; see its failures/ for why")
        self._bytes = [shard.bytes for shard in index.shards]
        index.check_files(self.directory)
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the files held open; reading opens them again."""
        for shard in self.__dict__.get("_open", {}).values():
            os.close(shard.descriptor)
        self.__dict__.get("_open", {}).clear()

    def read(self, shard: int, row: int) -> Sample:
        """Return the sample at `row` (0-based) of shard number `shard` (in index order)."""
        opened = self._opened(shard)
        image_offset, image_bytes, caption_offset, caption_bytes = opened.ranges[row].tolist()
        # The caption follows its picture in the tar: one read brings both.
        length = caption_offset + caption_bytes - image_offset
        data = os.pread(opened.descriptor, length, image_offset)
        if len(data) != length:
            raise DatasetError(
                f"{self.directory / self.names[shard]}: expected {length} bytes at {image_offset}, found "
                f"{len(data)}; is the shard cut off?"
            )
        caption = data[caption_offset - image_offset :].decode(errors="replace")
        return Sample(self.key(shard, row), data[:image_bytes], caption)

    def key(self, shard: int, row: int) -> str:
        """Return the key of the sample at `row` of shard number `shard`."""
        return sample_key(int(Path(self.names[shard]).stem), row)

    def _opened(self, shard: int) -> _OpenShard:
        opened = self._open.get(shard)
        if opened is None:
            path = self.directory / self.names[shard]
            manifest = path.with_suffix(".parquet")
            ranges = self._read_ranges(manifest, int(self.sizes[shard]), self._bytes[shard])
            opened = self._open[shard] = _OpenShard(os.open(path, os.O_RDONLY | os.O_CLOEXEC), ranges)
            if len(self._open) > _OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1].descriptor)
        else:
            self._open.move_to_end(shard)
        return opened

    def _read_ranges(self, path: Path, samples: int, tar_bytes: int) -> np.ndarray[Any, np.dtype[np.int64]]:
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
