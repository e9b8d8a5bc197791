"""What the headers of other tools' tars say: read once, and kept beside each tar for whoever comes after.

The samples are webdataset's; the picture is the first of PICTURES, the caption the txt member or else one
of the json's fields CAPTIONS. The index of a tar is `.NAME.headers.parquet` beside it, where that can be
written, else in the user's cache; it counts while the tar's size and time of change are the same.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from clipkit.atomic import make_folder, write_table
from clipkit.cpus import available_cpus
from clipkit.errors import DatasetError
from clipkit.json_values import parsed_json
from clipkit.locations import each_of, is_remote
from clipkit.locks import exclusive
from clipkit.shards.cache import Cache, Wanted, user_cache
from clipkit.shards.parquet import read_parquet
from clipkit.shards.pool import Died, mapped
from clipkit.shards.shard_files import RANGES
from clipkit.shards.tar_reader import Sample, TarReader
from clipkit.threads import not_waited_for

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
_BYTES_OF_A_PROCESS = 1_000_000_000  # of tars: read in about the second in which a process starts
_MOST_PROCESSES = 16


class Tar(NamedTuple):
    """A tar here or behind an address, as it was when it was looked at."""

    path: Path
    bytes: int
    changed: str
    """What differs once the tar has another content: the time of its last change, or its ETag."""

    @property
    def wanted(self) -> Wanted:
        """What the cache knows it by, if it lies behind an address."""
        return Wanted(self.path, self.bytes, version=self.changed)

    def open(self, cache: Cache) -> int:
        """Return a descriptor. Raises DatasetError if the tar is not what it was."""
        if is_remote(self.path):
            return cache.open(self.wanted)
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise DatasetError(
                f"{self.path}: expected the tar whose headers were indexed, found "
                f"{error.strerror}; restore it"
            ) from None
        found = os.fstat(descriptor)
        if (found.st_size, str(found.st_mtime_ns)) != (self.bytes, self.changed):
            os.close(descriptor)
            raise DatasetError(
                f"{self.path}: expected the tar as it was when its headers were indexed, found it changed; "
                "is it still being written? Begin again when it is whole"
            )
        return descriptor


MOST_BROKEN = 20
"""Of so many tars it is told that they cannot be read; then no more are tried."""


class Indexed(NamedTuple):
    """A tar's index in short: its samples, those left out, and a SHA-256 of what it says."""

    samples: int
    left_out: int
    digest: bytes


def indexed(tars: Sequence[Tar], cache: Cache) -> Iterator[Indexed | DatasetError]:
    """Yield the index of each tar in short, in order, or what is wrong with the tar, as TarReader raises it.

    What has none yet is read, by several processes if it is much, and by one program of this machine at a
    time: others wait, and find what it left.
    """
    first = 0
    while first < len(tars) and (found := _found(tars[first])):
        yield found
        first += 1
    if first == len(tars):
        return
    with _alone(tars):
        rest = [(tar, _found(tar)) for tar in tars[first:]]
        missing = [tar for tar, found in rest if found is None]
        made = _all_made(missing, cache)
        for _, found in rest:
            yield found or next(made)


def error_of(broken: Sequence[tuple[str, DatasetError]]) -> DatasetError:
    """Return one error for all the tars of these names: the first one's, and what the others are called."""
    (_, first), *others = broken
    more = f"; {len(others):,} more cannot be read: {', '.join(name for name, _ in others)}"
    return DatasetError(f"{first}{more if others else ''}")


def dotted(sample: Sample) -> str:
    """Return what to say of a sample that lacks something, if its name has a dot too many; else nothing."""
    name = f"{sample.key.rpartition('/')[2]}.{sample.first}".encode("utf-8", "replace").decode()
    return f", such as {name[:80]}: a key ends at the first dot of a name" if "." in sample.first else ""


def headers(tar: Tar, cache: Cache) -> pa.Table:
    """Return the index of a tar: its samples' keys, byte ranges RANGES, and captions' fields.

    It is made and kept if there is none. Raises DatasetError as TarReader does.
    """
    table = _kept(tar)
    if table is not None:
        return table
    with TarReader(tar.path, tar.open(cache)) as reader:
        table = _read(reader, tar)
    for place in _places(tar):
        try:
            make_folder(place.parent)
            # Ranks on other machines have this process id.
            write_table(place, table, secrets.token_hex(8))
            break
        except OSError:  # not writable, or full: the next place; in the end it is read anew each time
            continue
    return table


@contextmanager
def _alone(tars: Sequence[Tar]) -> Iterator[None]:
    names = "\0".join(str(tar.path) for tar in tars).encode("utf-8", "surrogateescape")
    name = f".{hashlib.sha256(names).hexdigest()[:40]}.headers.lock"
    with ExitStack() as stack:
        for place in _places(tars[0]):
            with suppress(OSError):  # not writable; where nothing is, each program reads for itself
                make_folder(place.parent)
                stack.enter_context(exclusive(place.with_name(name), wait=True))
                break
        yield


def _places(tar: Tar) -> list[Path]:
    name = hashlib.sha256(f"{tar.path}".encode("utf-8", "surrogateescape")).hexdigest()[:40]
    in_cache = user_cache() / "headers" / f"{name}.parquet"
    beside = tar.path.with_name(f".{tar.path.name}.headers.parquet")
    return [in_cache] if is_remote(tar.path) else [beside, in_cache]


def _found(tar: Tar) -> Indexed | None:
    table = _kept(tar)
    return None if table is None else _in_short(table)


def _made(tar: Tar, cache: Cache) -> Indexed | DatasetError:
    try:
        return _in_short(headers(tar, cache))
    except DatasetError as error:
        return error


def _all_made(tars: Sequence[Tar], cache: Cache) -> Iterator[Indexed | DatasetError]:
    make = partial(_made, cache=cache)
    if any(is_remote(tar.path) for tar in tars):
        yield from each_of(make, tars, remote=True)
        return
    processes = min(sum(tar.bytes for tar in tars) // _BYTES_OF_A_PROCESS, available_cpus(), _MOST_PROCESSES)
    # Not of the fork server, from which the loader's processes come that need torch in it.
    for tar, made in mapped(make, tars, processes if min(processes, len(tars)) > 1 else 0, "spawn"):
        if isinstance(made, Died):
            raise DatasetError(
                f"{tar.path}: expected to read its headers, found that the process that did so died; "
                "make memory free, and run the same command again"
            )
        yield made


def _in_short(table: pa.Table) -> Indexed:
    digest = hashlib.sha256(len(table).to_bytes(8, "little"))
    for name in RANGES:
        digest.update(np.ascontiguousarray(table[name].to_numpy()).tobytes())
    for key in table["key"].to_pylist():
        digest.update(key.encode() + b"\0")
    return Indexed(len(table), _noted(table)["left_out"], digest.digest())


def _kept(tar: Tar) -> pa.Table | None:
    return next((table for place in _places(tar) if (table := _kept_at(place, tar)) is not None), None)


def _kept_at(place: Path, tar: Tar) -> pa.Table | None:
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
        noted = parsed_json((table.schema.metadata or {}).get(_OF_TAR, b"{}"))
    except ValueError:
        noted = {}
    nothing = {"version": None, "bytes": None, "changed": None, "left_out": 0}
    return nothing | (noted if isinstance(noted, dict) else {})


def _read(reader: TarReader, tar: Tar) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    left_out = 0
    with not_waited_for():
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
            field = _caption_field(parsed_json(reader.read(text)))
        except ValueError:
            field = None
        text = text if field else None
    if picture is None or text is None or text.size > MAX_CAPTION_BYTES:
        return None
    key = sample.key.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return key, picture.offset, picture.size, text.offset, text.size, field


def _caption_field(fields: Any) -> str | None:
    """The name of the field that is the caption of a json's `fields`, None if there is none."""
    if not isinstance(fields, dict):
        return None
    return next((name for name in CAPTIONS if isinstance(fields.get(name), str)), None)
