"""ShardSet: random access to the samples of a dataset directory or of foreign tars, by shard and row."""

import logging
import os
import resource
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from clipkit.errors import DatasetError, NoDatasetError
from clipkit.locations import is_remote, location, scheme_of
from clipkit.processes import allow_files
from clipkit.progress import Progress
from clipkit.shards.cache import BYTES_VARIABLE, Cache
from clipkit.shards.dataset import DATASET_FILE
from clipkit.shards.filling import Filling
from clipkit.shards.foreign import ForeignTars
from clipkit.shards.headers import MAX_CAPTION_BYTES
from clipkit.shards.index import INDEX_FILE
from clipkit.shards.parts import PARTS
from clipkit.shards.patterns import PATTERN
from clipkit.shards.plan import BLOCK, STREAMS
from clipkit.shards.shard_files import DatasetFiles, Int64s, Rows, SampleError, ShardFiles
from clipkit.tables import size

_log = logging.getLogger("clipkit.shards")
_OPEN_FILES = 400
_OPEN_COPIES = 100  # what the cache removes takes its room until it is closed
_OTHER_FILES = 200
_READ_OVER = 1 << 16  # bytes between a sample's picture and caption, rather than reading twice
_KEPT_ROWS = 2_000_000  # of byte ranges, 32 bytes each: the stream's 64 blocks, in shards of any size

MAX_PICTURE_BYTES = 1 << 28
"""One of more is not read: none that may be decoded is as large."""


class Sample(NamedTuple):
    """One picture with its caption: `image` as stored (JPEG, usually), `caption` as in the source."""

    key: str
    image: bytes
    caption: str


class ShardSet:
    """The shards of a dataset directory, or tars of other tools, on this machine or behind addresses.

    `source` is a dataset directory; or a folder of webdataset's or img2dataset's tars, a brace or glob
    pattern of such, or several of these, whose headers are indexed once (see `headers`). Addresses are
    s3://, gs:// and https://; their shards are copied into a bounded cache as they are needed. Samples are
    read with pread at known byte ranges; no tar is parsed for it. A ShardSet can be pickled: each process
    opens its own files, and several threads may read at a time. With `unfinished`, what an ingest has
    committed so far is read.

    Raises DatasetError if there are no samples, an ingest that has not finished, or a shard is missing.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[str],
        *,
        unfinished: bool = False,
        progress: Callable[[str, int | None, str], Progress] = Progress,
    ):
        sources = [str(each) for each in source] if isinstance(source, list | tuple) else [str(source)]
        self.source = " ".join(sources)
        if not sources:
            raise DatasetError("expected a dataset directory or tars, found an empty list of them")
        self._files = _files(sources, unfinished, progress)
        if self.is_remote:
            _check_cache(self.source, len(self), self._files.tar_bytes)
        # No locks: a process forked while another thread has one would wait for it without end.
        self._descriptors: OrderedDict[int, _Descriptor] = OrderedDict()
        self._rows: OrderedDict[int, Rows] = OrderedDict()
        self._kept_rows = 0
        self._filling: Filling | None = None

    @property
    def names(self) -> list[str]:
        """The shards' file names."""
        return self._files.names

    @property
    def sizes(self) -> Int64s:
        """The shards' numbers of samples, int64."""
        return self._files.sizes

    @property
    def fingerprint(self) -> str:
        """A SHA-256 (hex) that shards of another content do not have: the identity of the data.

        Tars of other tools are known by their headers alone: the samples' keys, and where they lie.
        """
        return self._files.fingerprint

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def __getstate__(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"_descriptors": OrderedDict(), "_rows": OrderedDict()}
        return self.__dict__ | empty | {"_kept_rows": 0, "_filling": None}

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the files held open; reading opens them again."""
        self.__dict__.get("_descriptors", {}).clear()
        if filling := self.__dict__.get("_filling"):
            filling.stop()
            self._filling = None

    def read(self, shard: int, row: int) -> Sample:
        """Return the sample at `row` (0-based) of shard number `shard`.

        Raises SampleError if it alone cannot be read, DatasetError if its shard or manifest is damaged,
        IndexError if there is none.
        """
        rows = self._rows_of(shard, row)
        image_offset, image_bytes, caption_offset, caption_bytes = rows.ranges[row].tolist()
        _check_size("picture", image_bytes, MAX_PICTURE_BYTES)
        _check_size("caption", caption_bytes, MAX_CAPTION_BYTES)
        start = min(image_offset, caption_offset)
        length = max(image_offset + image_bytes, caption_offset + caption_bytes) - start
        if length > image_bytes + caption_bytes + _READ_OVER:
            image = self._pread(shard, image_bytes, image_offset)
            text = self._pread(shard, caption_bytes, caption_offset)
        else:  # the caption follows its picture in the tar, usually: one read brings both
            data = self._pread(shard, length, start)
            image = data[image_offset - start : image_offset - start + image_bytes]
            text = data[caption_offset - start : caption_offset - start + caption_bytes]
        return Sample(self._files.key(shard, rows, row), image, self._files.caption(text, rows, row))

    def _pread(self, shard: int, length: int, offset: int) -> bytes:
        descriptor = self._descriptor(shard)  # an error of this concerns not only this sample
        try:
            data = os.pread(descriptor.number, length, offset)
        except OSError as error:
            raise SampleError(f"cannot be read from disk: {error.strerror}") from error
        if len(data) != length:
            raise DatasetError(
                f"{self.place(shard)}: expected {length} bytes at {offset}, found {len(data)}; "
                "is the shard cut off?"
            )
        return data

    def key(self, shard: int, row: int) -> str:
        """Return the key of the sample at `row` of shard number `shard`; IndexError if there is none."""
        return self._files.key(shard, self._rows_of(shard, row), row)

    def place(self, shard: int) -> str:
        """Return where shard number `shard` lies, for messages."""
        return self._files.place(shard)

    def short_sides(self, shard: int) -> Int64s | None:
        """Return the shorter sides of a shard's pictures in pixels; None where that is not written down.

        Raises DatasetError if the manifest is missing or damaged.
        """
        return self._files.short_sides(shard)

    def prepare(self, shards: Iterable[int]) -> None:
        """Begin to copy what lies behind addresses of these shards into the cache; returns at once."""
        self._filling = self._filling or Filling(self._files.fill)
        for shard in shards:
            self._filling.want(shard)

    @property
    def is_remote(self) -> bool:
        """Whether shards lie behind addresses, so that it pays to `prepare` them."""
        return self._files.remote

    def _descriptor(self, shard: int) -> "_Descriptor":
        descriptor = self._descriptors.get(shard)
        if descriptor is not None:
            with suppress(KeyError):  # another thread may have removed it
                self._descriptors.move_to_end(shard)
            return descriptor
        descriptor = self._descriptors[shard] = _Descriptor(self._files.open(shard))
        with suppress(KeyError):
            for _ in range(len(self._descriptors) - self._most_open()):
                self._descriptors.popitem(last=False)
        return descriptor

    def _most_open(self) -> int:
        _READING.add(self)
        most = _OPEN_COPIES if self.is_remote else _OPEN_FILES
        allow_files(_OPEN_FILES * len(_READING) + _OTHER_FILES)
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if allowed == resource.RLIM_INFINITY:
            return most
        return max(1, min(most, max(allowed - _OTHER_FILES, allowed // 2) // len(_READING)))

    def _rows_of(self, shard: int, row: int) -> Rows:
        if shard < 0 or not 0 <= row < self.sizes[shard]:
            raise IndexError(f"{self.source}: no row {row} of shard {shard}")
        rows = self._rows.get(shard)
        if rows is not None:
            with suppress(KeyError):
                self._rows.move_to_end(shard)
            return rows
        rows = self._files.rows(shard)
        if self._rows.setdefault(shard, rows) is rows:
            self._kept_rows += len(rows.ranges)
        with suppress(KeyError):
            while self._kept_rows > _KEPT_ROWS and len(self._rows) > 1:
                self._kept_rows -= len(self._rows.popitem(last=False)[1].ranges)
        return rows


class _Descriptor:
    """An open file that is closed when no thread reads it any more."""

    def __init__(self, number: int):
        self.number = number

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.number)


_READING: "weakref.WeakSet[ShardSet]" = weakref.WeakSet()  # of this process; they share its descriptors


def _check_size(what: str, size: int, most: int) -> None:
    if size > most:
        raise SampleError(f"its {what} has {size:,} bytes, over {most:,}: leave it out")


def _files(
    sources: Sequence[str], unfinished: bool, progress: Callable[[str, int | None, str], Progress]
) -> ShardFiles:
    if len(sources) == 1 and (directory := _dataset_directory(sources[0])) is not None:
        try:
            return DatasetFiles(directory, unfinished=unfinished)
        except NoDatasetError:  # behind an address that is seen only now
            if not is_remote(directory) or not any(directory.glob("*.tar")):
                raise
    return ForeignTars(sources, progress)


def _dataset_directory(source: str) -> Path | None:
    """Return the dataset directory that a source is, None if it names tars."""
    path = None if scheme_of(source) is None and "::" in source else location(source)
    if path is None or path.name.endswith(".tar") or (PATTERN.search(source) and not _is_folder(path)):
        return None
    if is_remote(path):
        return path
    is_dataset = any((path / name).exists() for name in (INDEX_FILE, DATASET_FILE, PARTS))
    return path if is_dataset or not (path.is_file() or list(path.glob("*.tar"))) else None


def _check_cache(source: str, samples: int, tar_bytes: Int64s) -> None:
    cache = Cache()
    cache.check_fits(source, int(tar_bytes.max()))
    # A stream reads a block, and the next one is copied meanwhile; a block begins and ends within shards.
    blocks = 2 * max(1, min(STREAMS, samples // BLOCK))
    shards = blocks * (BLOCK * len(tar_bytes) / samples + 1)
    used = int(min(1.0, shards / len(tar_bytes)) * int(tar_bytes.sum()))
    if used > cache.max_bytes:
        _log.warning(
            "%s: a stream uses about %s of its shards at a time, and the cache holds %s: they will be "
            "downloaded again and again; set %s to more",
            source,
            size(used),
            size(cache.max_bytes),
            BYTES_VARIABLE,
        )


def _is_folder(path: Path) -> bool:
    return path.is_dir() if is_remote(path) else os.path.isdir(path)  # noqa: PTH112 (a Path raises if its name is too long)


def name_of(source: str) -> str:
    """Return a short name for what a source names: that of its folder or only tar."""
    if _is_folder(Path(source)):
        return Path(source).resolve().name
    plain = [part for part in PurePosixPath(source.partition("::")[0]).parts if not PATTERN.search(part)]
    return plain[-1].removesuffix(".tar") if plain else Path.cwd().name
