"""Files of lists wherever they lie: those behind addresses are copied to the cache, and read there."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from clipkit.errors import SourceError
from clipkit.locations import each_of, infos, is_remote, version_of
from clipkit.progress import Progress
from clipkit.shards.cache import BYTES_VARIABLE, Cache, Wanted
from clipkit.shards.dataset import SourceFile
from clipkit.shards.text_files import opened_as_stored
from clipkit.threads import not_waited_for

_MB = 1_000_000
_MUCH_BYTES = 2_000 * _MB  # some seconds to read


class CachedFile(NamedTuple):
    """A file behind an address, with what is used of a Path to read a list: what is read is its copy."""

    wanted: Wanted

    def __str__(self) -> str:
        return str(self.wanted.source)

    def open(self, mode: str = "rb") -> BinaryIO:
        """Return the copy, opened; it is made anew if the cache has not kept it. Raises as Cache.open."""
        assert mode == "rb"
        return os.fdopen(Cache().open(self.wanted), "rb")

    @property
    def suffix(self) -> str:
        """The last ending of the name, with its dot."""
        return self.wanted.source.suffix

    def with_suffix(self, suffix: str) -> Path:
        """Return the address with another ending."""
        return self.wanted.source.with_suffix(suffix)

    def known(self) -> "CachedFile":
        """Return the file as it is read from now on, by the SHA-256 of its copy. Raises as Cache.open."""
        with self.open() as stream:
            return CachedFile(Cache().known_by(self.wanted, stream.fileno(), _sha256(stream)))

    def identity(self, name: str) -> SourceFile:
        """Return what identifies the `known` file under this name."""
        assert self.wanted.sha256
        return SourceFile(name=name, bytes=self.wanted.bytes, sha256=self.wanted.sha256)


def at_hand(paths: Sequence[Path]) -> list[Path]:
    """Return the files, those behind addresses as CachedFiles, which are copied now.

    Raises SourceError for what is no file there, RemoteError, and as Cache.open.
    """
    there = [path for path in paths if is_remote(path)]
    wanted = [_wanted(path, info) for path, info in zip(there, infos(there), strict=True)]
    copies = iter(_copied(wanted))
    return [cast("Path", next(copies)) if is_remote(path) else path for path in paths]


def _wanted(path: Path, info: Mapping[str, Any] | None) -> Wanted:
    expected = f"{path}: expected a list or a table, found"
    if info is None:
        raise SourceError(f"{expected} no such file; check its name")
    if info["type"] == "directory":
        raise SourceError(f"{expected} a folder; name its files")
    if info["size"] is None:
        raise SourceError(f"{expected} a server that does not tell its size; download it first")
    return Wanted(path, info["size"], version=version_of(info))


def _copied(wanted: Sequence[Wanted]) -> list[CachedFile]:
    """Copy the files, several at a time; of much is shown how far it is."""
    total, done, copies, most = sum(each.bytes for each in wanted), 0, [], Cache().max_bytes
    with Progress("copy", total // _MB, "MB") if total >= _MUCH_BYTES else nullcontext() as display:
        if display and total > most:
            display.say(
                f"copy: the lists' {total // _MB:,} MB are more than the {most // _MB:,} MB that the cache "
                f"may hold: they are copied several times, unless {BYTES_VARIABLE} allows more"
            )
        for copy in each_of(_known, wanted, remote=total <= most):  # else one of them has room, perhaps
            copies.append(copy)
            done += copy.wanted.bytes
            if display:
                display.update(done // _MB)
    return copies


@not_waited_for()
def _known(wanted: Wanted) -> CachedFile:
    if not wanted.version:
        Cache().forget(wanted)  # of an earlier file of that name and size, perhaps
    return CachedFile(wanted).known()


def identify_all(paths: Sequence[Path], names: Sequence[str]) -> tuple[SourceFile, ...]:
    """Return what identifies each file, under these names; of much to read is shown how far it is.

    Raises SourceError.
    """
    here = [path for path in paths if not is_remote(path)]
    total, done = sum(path.stat().st_size for path in here if path.is_file()), 0
    with Progress("check", total // _MB, "MB") if total >= _MUCH_BYTES else nullcontext() as display:

        def read(count: int) -> None:
            nonlocal done
            done += count
            if display:
                display.update(done // _MB)

        return tuple(identify(path, name, read) for path, name in zip(paths, names, strict=True))


def identify(path: Path | CachedFile, name: str, read: Callable[[int], None] = lambda _: None) -> SourceFile:
    """Return what identifies a file: size and SHA-256 of its bytes as stored. `read` is told of each piece.

    Raises SourceError.
    """
    if isinstance(path, CachedFile):
        return path.identity(name)
    try:
        with opened_as_stored(path) as stream:
            digest = _sha256(stream, read)
            return SourceFile(name=name, bytes=stream.tell(), sha256=digest)
    except OSError as error:
        raise SourceError(
            f"{path}: expected a list or a table, found that it cannot be read ({error.strerror}); "
            "check its name"
        ) from None


def _sha256(stream: BinaryIO, read: Callable[[int], None] = lambda _: None) -> str:
    digest = hashlib.sha256()
    while piece := stream.read(_MB):
        digest.update(piece)
        read(len(piece))
    return digest.hexdigest()
