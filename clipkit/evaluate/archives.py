"""Archives as they were downloaded: tars whose members are read where they lie, unopened.

A tar.gz has no random access: the first use writes the tar in it into the user's cache, as one file, and
every process reads that. Nothing is ever unpacked into files, so that a member's path leads nowhere; what
would lead astray if it were is refused all the same.
"""

import gzip
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipkit.errors import EvaluationError
from clipkit.evaluate.classes import listing
from clipkit.evaluate.pictures import OpenedTar
from clipkit.locations import decoded, opened
from clipkit.progress import Progress
from clipkit.shards.cache import Cache, Wanted
from clipkit.shards.headers import Tar
from clipkit.shards.shard_set import MAX_PICTURE_BYTES
from clipkit.shards.tar_reader import Entry, Member, TarReader

ARCHIVE_ENDINGS = (".tar", ".tar.gz", ".tgz")
MAX_MEMBERS = 5_000_000
_FILES_AND_FOLDERS = (b"0", b"\0", b"7", b"5")
_GZIP = b"\x1f\x8b"
_SHORTEST_GZIP = 18
_CHUNK = 1 << 20
_MEGABYTE = 1_000_000
# Pictures are compressed already, but a tar of small ones is mostly padding, of which gzip leaves nothing.
_MOST_UNPACKED = 20
_ALWAYS_ALLOWED = 200 * _MEGABYTE


@dataclass(frozen=True)
class PlainTar:
    """A tar of this machine, which must stay as it was when it was looked at."""

    tar: Tar

    @property
    def place(self) -> str:
        """Where it lies."""
        return str(self.tar.path)

    def open(self) -> int:
        """Return a descriptor. Raises DatasetError if the tar is gone or changed."""
        return self.tar.open(_cache())


@dataclass(frozen=True)
class GzippedTar:
    """A tar.gz of this machine, of which a copy without gzip lies in the user's cache."""

    path: Path
    wanted: Wanted

    @property
    def place(self) -> str:
        """Where it lies."""
        return str(self.path)

    def open(self) -> int:
        """Return a descriptor of the copy, which is made if it is not there.

        Raises EvaluationError for what is cut off or damaged, StorageError if there is no room for it.
        """
        return _cache().open(self.wanted)


def is_archive(path: Path) -> bool:
    """Tell whether a name is one of a tar, compressed or not."""
    return path.name.lower().endswith(ARCHIVE_ENDINGS) and not path.is_dir()


def open_archive(path: Path) -> OpenedTar:
    """Return the tar or tar.gz at `path`. Raises EvaluationError if it cannot be read, or is none."""
    try:
        with os.fdopen(opened(path), "rb") as file:
            found = os.fstat(file.fileno())
            if not found.st_size:
                raise EvaluationError(f"{path}: expected a tar or tar.gz, found an empty file; get it again")
            start = file.read(2)
            if start != _GZIP:
                return PlainTar(Tar(path, found.st_size, str(found.st_mtime_ns)))
            if found.st_size < _SHORTEST_GZIP:
                raise _cut_off(path)
            file.seek(-4, os.SEEK_END)
            low_bits = int.from_bytes(file.read(4), "little")
    except OSError as error:
        raise EvaluationError(f"{path}: expected a tar or tar.gz, found: {error.strerror}") from None
    # gzip notes the size modulo 2³²; what is compressed does not become larger than by some thousandth.
    least = found.st_size - found.st_size // 500 - _CHUNK
    size = low_bits + max(0, -(-(least - low_bits) // (1 << 32))) * (1 << 32)
    if size > max(_ALWAYS_ALLOWED, _MOST_UNPACKED * found.st_size):
        raise EvaluationError(
            f"{path}: expected a tar.gz of pictures, found one whose end says that {found.st_size:,} bytes "
            f"unpack to {size:,}; it is cut off or no archive of pictures: get it again"
        )
    source = path.absolute()
    return GzippedTar(path, Wanted(source, size, version=f"{found.st_size} {found.st_mtime_ns} unpacked"))


def members(archive: OpenedTar, path: Path) -> list[Member]:
    """Return the files in a tar, in its order, `./` at the front of their names left out.

    Raises EvaluationError for links, devices, paths that climb out, files that are there twice, or too large
    to be pictures; DatasetError for a tar that is cut off or damaged.
    """
    found: dict[str, Member] = {}
    twice: list[str] = []
    with TarReader(path, archive.open()) as reader:
        for entry in reader.entries():
            member = _checked(entry, path)
            if not entry.is_file:
                continue
            if member.name in found:
                twice.append(member.name)
            found[member.name] = member
            if len(found) > MAX_MEMBERS:
                raise EvaluationError(
                    f"{path}: expected at most {MAX_MEMBERS:,} files, found more; pack the pictures alone"
                )
    if twice:
        raise EvaluationError(
            f"{path}: expected each file once, found {len(twice):,} twice: {listing(map(decoded, twice))}; "
            "pack it anew from whole pictures"
        )
    return list(found.values())


def read_member(archive: OpenedTar, member: Member) -> bytes:
    """Return the content of a small member."""
    descriptor = archive.open()
    try:
        return os.pread(descriptor, member.size, member.offset)
    finally:
        os.close(descriptor)


def _checked(entry: Entry, path: Path) -> Member:
    member = entry.member
    name = member.name
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    shown = repr(decoded(member.name))
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise EvaluationError(
            f"{path}: expected files below one folder, found a path that leaves it: {shown}; "
            "pack the folder itself"
        )
    if not entry.is_file and entry.kind not in _FILES_AND_FOLDERS:
        raise EvaluationError(
            f"{path}: expected files and folders, found a link or device: {shown}; pack the files themselves"
        )
    if entry.is_file and member.size > MAX_PICTURE_BYTES:
        raise EvaluationError(
            f"{path}: expected at most {MAX_PICTURE_BYTES:,} bytes a file, found {member.size:,}: {shown}"
        )
    return member._replace(name=name)


def _cache() -> Cache:
    return Cache(fetch=_unpack)


def _unpack(source: Path, target: Path, at_most: int) -> None:
    """Write the tar in a tar.gz, all of it or an error, in bounded memory; the cache checks the size."""
    done = 0
    with (
        target.open("wb") as file,
        Progress(f"unpack {source.name}", -(-at_most // _MEGABYTE), "MB") as shown,
    ):
        for chunk in _chunks(source):
            done += len(chunk)
            if done > at_most:
                raise EvaluationError(
                    f"{source}: expected a tar.gz of one piece, that unpacks to {at_most:,} bytes as its "
                    "end says, found more; gunzip it and give the tar"
                )
            file.write(chunk)
            shown.update(done // _MEGABYTE)


def _chunks(source: Path) -> Iterator[bytes]:
    try:
        with os.fdopen(opened(source), "rb") as file, gzip.open(file) as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except EOFError:
        raise _cut_off(source) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise EvaluationError(f"{source}: the tar.gz is damaged ({error}); get it again") from None


def _cut_off(path: Path) -> EvaluationError:
    return EvaluationError(f"{path}: expected a whole tar.gz, found one that is cut off; get it again")
