"""Tars of other tools as shards: their headers are read once, and what was found is kept beside them.

The samples are webdataset's; the picture is the first of PICTURES, the caption the txt member or else one
of the json's fields CAPTIONS. The index of a tar is `.NAME.headers.parquet` beside it, where that can be
written, else in the user's cache; it counts while the tar's size and time of change are the same.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from clipkit.atomic import make_folder, write_table
from clipkit.errors import DatasetError
from clipkit.locations import infos, is_remote
from clipkit.progress import Progress
from clipkit.shards.cache import Cache, Wanted, user_cache
from clipkit.shards.parquet import read_parquet
from clipkit.shards.patterns import tar_paths
from clipkit.shards.shard_files import RANGES, Rows, SampleError, check_ranges
from clipkit.shards.tar_reader import Sample, TarReader
from clipkit.threads import mapped_in_threads

PICTURES = ("jpg", "png", "jpeg", "webp", "gif", "avif", "bmp")
"""Of several pictures in a sample the first of these is taken, as OpenCLIP does."""
CAPTIONS = ("caption", "text")
"""The json's fields that hold the caption of a sample without a txt member."""
MEMBERS = frozenset({*PICTURES, "txt", "json"})
"""The extensions that count; all other members are ignored and never read."""

MAX_CAPTION_BYTES = 1 << 20
_SCHEMA = pa.schema(
    [("key", pa.string()), *((name, pa.int64()) for name in RANGES), ("caption_field", pa.string())]
)
_OF_TAR = b"clipkit.tar"
_VERSION = 1
_AT_ONCE = 8
_VERSIONS = ("ETag", "etag", "LastModified", "Last-Modified")  # S3's and the web's, GCS's, those without


class _Tar(NamedTuple):
    path: Path
    bytes: int
    changed: str
    """What differs once the tar has another content: the time of its last change, or its ETag."""


class ForeignTars:
    """The samples of tars that `sources` name: folders, patterns, addresses.

    `left_out` counts those without a picture or a caption. Raises DatasetError for a tar that is missing,
    compressed, cut off or damaged, and if there are no samples.
    """

    def __init__(self, sources: Sequence[str], progress: Callable[[str, int | None, str], Progress]):
        self._tars = _described(tar_paths(sources, remote=True))
        self._cache = Cache()
        self.remote = any(is_remote(tar.path) for tar in self._tars)
        self.names = [tar.path.name for tar in self._tars]
        self.tar_bytes = np.array([tar.bytes for tar in self._tars], dtype=np.int64)
        self.left_out = 0
        sizes, digest = [], hashlib.sha256()
        with progress("index", len(self._tars), "tars") as display:
            # What lies elsewhere is waited for: several at a time.
            threads = _AT_ONCE if self.remote else 1
            for number, table in enumerate(mapped_in_threads(self._headers, self._tars, threads)):
                sizes.append(len(table))
                self.left_out += _noted(table)["left_out"]
                digest.update(_identity(table))
                display.update(number + 1, f"{sum(sizes):,} samples")
            if self.left_out:
                display.say(
                    f"index: {self.left_out:,} samples have no picture or no caption and are left out"
                )
        self.sizes = np.array(sizes, dtype=np.int64)
        self.fingerprint = digest.hexdigest()
        if not self.sizes.sum():
            raise DatasetError(
                f"{' '.join(sources)}: expected samples, found none with a picture "
                f"({', '.join(PICTURES)}) and a caption (txt, or a json's {' or '.join(CAPTIONS)}) "
                f"in {len(self._tars):,} tars"
            )

    def place(self, shard: int) -> str:
        """Return where the tar lies, for messages."""
        return str(self._tars[shard].path)

    def open(self, shard: int) -> int:
        """Return a descriptor of a tar. Raises DatasetError if it is not what it was."""
        return self._descriptor(self._tars[shard])

    def rows(self, shard: int) -> Rows:
        """Return what the index of a tar's headers says."""
        tar = self._tars[shard]
        table = self._headers(tar)
        ranges = np.stack([table[name].to_numpy() for name in RANGES], axis=1)
        check_ranges(self.place(shard), ranges, int(self.sizes[shard]), tar.bytes)
        fields = table["caption_field"].to_pylist()
        return Rows(ranges, fields if any(fields) else None, table["key"])

    def caption(self, text: bytes, rows: Rows, row: int) -> str:
        """Return the caption, what is no UTF-8 in it as U+FFFD. Raises SampleError if its field is gone."""
        field = rows.fields[row] if rows.fields else None
        if field is None:
            return text.decode(errors="replace")
        try:
            value = json.loads(text)[field]
        except (ValueError, LookupError, TypeError, RecursionError):
            value = None
        if not isinstance(value, str):
            raise SampleError(f"its json has no caption in the field {field!r}; was the tar changed?")
        return value.encode(errors="replace").decode()

    def fill(self, shard: int) -> None:
        """Have a tar behind an address copied into the cache."""
        if is_remote(self._tars[shard].path):
            self._cache.fill(self._wanted(self._tars[shard]))

    def key(self, shard: int, rows: Rows, row: int) -> str:
        """Return a sample's key."""
        assert rows.keys is not None
        return str(rows.keys[row])

    def _descriptor(self, tar: _Tar) -> int:
        if is_remote(tar.path):
            return self._cache.open(self._wanted(tar))
        try:
            descriptor = os.open(tar.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise DatasetError(
                f"{tar.path}: expected the tar whose headers were indexed, found {error.strerror}; restore it"
            ) from None
        found = os.fstat(descriptor)
        if (found.st_size, str(found.st_mtime_ns)) != (tar.bytes, tar.changed):
            os.close(descriptor)
            raise DatasetError(
                f"{tar.path}: expected the tar as it was when its headers were indexed, found it changed; "
                "is it still being written? Begin again when it is whole"
            )
        return descriptor

    def _wanted(self, tar: _Tar) -> Wanted:
        return Wanted(tar.path, tar.bytes, version=tar.changed)

    def _headers(self, tar: _Tar) -> pa.Table:
        beside = tar.path.with_name(f".{tar.path.name}.headers.parquet")
        name = hashlib.sha256(f"{tar.path}".encode("utf-8", "surrogateescape")).hexdigest()[:40]
        in_cache = user_cache() / "headers" / f"{name}.parquet"
        places = [in_cache] if is_remote(tar.path) else [beside, in_cache]
        for place in places:
            table = _kept(place, tar)
            if table is not None:
                return table
        with TarReader(tar.path, self._descriptor(tar)) as reader:
            table = _indexed(reader, tar)
        for place in places:
            try:
                make_folder(place.parent)
                write_table(
                    place, table, secrets.token_hex(8)
                )  # ranks on other machines have this process id
                break
            except OSError:  # not writable, or full: the next place; in the end it is read anew each time
                continue
        return table


def caption_field(fields: Any) -> str | None:
    """Return the name of the field that is the caption of a json's `fields`, None if there is none."""
    if not isinstance(fields, dict):
        return None
    return next((name for name in CAPTIONS if isinstance(fields.get(name), str)), None)


def _described(paths: Sequence[Path]) -> list[_Tar]:
    known = iter(infos([path for path in paths if is_remote(path)]))
    return [_of_address(path, next(known)) if is_remote(path) else _of_disk(path) for path in paths]


def _of_disk(path: Path) -> _Tar:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise DatasetError(f"{path}: expected a tar, found no such file") from None
    return _Tar(path, found.st_size, str(found.st_mtime_ns))


def _of_address(path: Path, info: Mapping[str, Any] | None) -> _Tar:
    if info is None:
        raise DatasetError(f"{path}: expected a tar, found no such file")
    if info["size"] is None:
        raise DatasetError(
            f"{path}: expected a server that tells a file's size, found one that does not; download the tar"
        )
    return _Tar(path, info["size"], str(next((info[name] for name in _VERSIONS if info.get(name)), "")))


def _kept(place: Path, tar: _Tar) -> pa.Table | None:
    if not place.is_file():
        return None
    try:
        table = read_parquet(place, "an index of a tar's headers")
    except DatasetError:
        return None
    noted = _noted(table)
    is_of_tar = (noted["version"], noted["bytes"], noted["changed"]) == (_VERSION, tar.bytes, tar.changed)
    is_whole = table.schema.equals(_SCHEMA) and not any(table[name].null_count for name in ("key", *RANGES))
    return table if is_of_tar and is_whole and isinstance(noted["left_out"], int) else None


def _noted(table: pa.Table) -> dict[str, Any]:
    try:
        noted = json.loads((table.schema.metadata or {}).get(_OF_TAR, b"{}"))
    except ValueError:
        noted = {}
    nothing = {"version": None, "bytes": None, "changed": None, "left_out": 0}
    return nothing | (noted if isinstance(noted, dict) else {})


def _indexed(reader: TarReader, tar: _Tar) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    left_out = 0
    for sample in reader.samples(MEMBERS):
        row = _row(reader, sample)
        if row is None:
            left_out += 1
            continue
        for name, value in zip(_SCHEMA.names, row, strict=True):
            columns[name].append(value)
    noted = {"version": _VERSION, "bytes": tar.bytes, "changed": tar.changed, "left_out": left_out}
    return pa.table(columns, schema=_SCHEMA.with_metadata({_OF_TAR: json.dumps(noted).encode()}))


def _row(reader: TarReader, sample: Sample) -> tuple[str, int, int, int, int, str | None] | None:
    picture = next((sample.members[name] for name in PICTURES if name in sample.members), None)
    text, field = sample.members.get("txt"), None
    if text is None and (text := sample.members.get("json")) is not None and text.size <= MAX_CAPTION_BYTES:
        try:
            field = caption_field(json.loads(reader.read(text)))
        except (ValueError, RecursionError):
            field = None
        text = text if field else None
    if picture is None or text is None or text.size > MAX_CAPTION_BYTES:
        return None
    key = sample.key.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return key, picture.offset, picture.size, text.offset, text.size, field


def _identity(table: pa.Table) -> bytes:
    digest = hashlib.sha256(len(table).to_bytes(8, "little"))
    for name in RANGES:
        digest.update(np.ascontiguousarray(table[name].to_numpy()).tobytes())
    for key in _chunks(table):
        digest.update(key)
    return digest.digest()


def _chunks(table: pa.Table) -> Iterator[bytes]:
    for key in table["key"].to_pylist():
        yield key.encode() + b"\0"
