"""A bounded folder of this machine for what is read behind addresses; shared by all processes.

A file is there under a name made of its address, size and hash. It is downloaded beside it, checked, and
renamed. What was not used for the longest time goes first when room is needed; who has it open goes on.
"""

import hashlib
import os
import shutil
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from clipkit.atomic import make_folder, temporary_path
from clipkit.errors import DatasetError
from clipkit.locations import download, error_is_of_disk, is_remote_error
from clipkit.locks import exclusive

FOLDER_VARIABLE = "CLIPKIT_CACHE"
BYTES_VARIABLE = "CLIPKIT_CACHE_BYTES"
DEFAULT_BYTES = 100_000_000_000
_LEFT_FREE = 1_000_000_000
_ATTEMPTS = 3
_STALE_SECONDS = 24 * 3600


def user_cache() -> Path:
    """Return the user's folder for what can be made again: $CLIPKIT_CACHE, else by the XDG rules."""
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipkit"


class Wanted(NamedTuple):
    """A file behind an address: its size in bytes, and what else tells it from another one of that name.

    `sha256` (hex) is checked; `version`, an ETag say, only makes the name.
    """

    source: Path
    bytes: int
    sha256: str | None = None
    version: str = ""


class Cache:
    """Files behind addresses, as descriptors of copies on this machine. Picklable; any number of threads."""

    def __init__(self, folder: Path | None = None, max_bytes: int | None = None):
        self.folder = folder or user_cache() / "files"
        self.max_bytes = max_bytes or _from_environment()
        self._locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)

    def __reduce__(self) -> tuple[type["Cache"], tuple[Path, int]]:
        return Cache, (self.folder, self.max_bytes)

    def open(self, wanted: Wanted) -> int:
        """Return a descriptor of the file, which is downloaded if it is not there.

        Raises DatasetError if it cannot be had whole, or this machine has no room for it.
        """
        path = self._path(wanted)
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._fill(path, wanted)
                continue
            if os.fstat(descriptor).st_size == wanted.bytes:
                os.utime(descriptor)
                return descriptor
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def fill(self, wanted: Wanted) -> None:
        """Download the file if it is not there."""
        path = self._path(wanted)
        if not path.exists():
            self._fill(path, wanted)

    def _path(self, wanted: Wanted) -> Path:
        parts = (str(wanted.source), str(wanted.bytes), wanted.sha256 or "", wanted.version)
        name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]
        return self.folder / f"{name}-{wanted.source.name[-80:]}"

    def _fill(self, path: Path, wanted: Wanted) -> None:
        make_folder(self.folder)
        # A lock of the file system keeps other processes away, but not this one's threads.
        with self._locks[path], exclusive(path.with_name(f".{path.name}.lock"), wait=True):
            if path.exists():
                return
            found = ""
            for _ in range(_ATTEMPTS):
                found = self._downloaded(path, wanted)
                if not found:
                    return
        raise DatasetError(
            f"{wanted.source}: expected {wanted.bytes:,} bytes"
            f"{f' of SHA-256 {wanted.sha256[:12]}…' if wanted.sha256 else ''}, found {found}; "
            f"tried {_ATTEMPTS} times: is the file or the connection damaged?"
        )

    def _downloaded(self, path: Path, wanted: Wanted) -> str:
        """Download once; return what is wrong with what came, or nothing."""
        temporary = temporary_path(path)
        try:
            self._make_room(wanted.bytes)
            download(wanted.source, temporary)
            found = _unfitting(temporary, wanted)
            if not found:
                temporary.replace(path)
            return found
        except FileNotFoundError:
            return "no such file"
        except Exception as error:
            if error_is_of_disk(error):
                raise DatasetError(
                    f"{self.folder}: expected room for {wanted.bytes:,} bytes of {wanted.source}, found the "
                    f"disk full; make room, or set {FOLDER_VARIABLE} to a folder on a larger disk"
                ) from None
            if not (isinstance(error, OSError) or is_remote_error(error)):
                raise
            return str(error).partition("\n")[0] or type(error).__name__
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, needed: int) -> None:
        with exclusive(self.folder / ".room.lock", wait=True):
            now, files = time.time(), []
            for entry in os.scandir(self.folder):
                try:
                    found = entry.stat()
                except FileNotFoundError:
                    continue
                if entry.name.startswith("."):
                    if entry.name.endswith(".tmp") and now - found.st_mtime > _STALE_SECONDS:
                        Path(entry.path).unlink(missing_ok=True)
                    continue
                files.append((found.st_mtime_ns, found.st_size, entry.path))
            total = sum(size for _, size, _ in files)
            free = shutil.disk_usage(self.folder).free
            for _, size, path in sorted(files):
                if total + needed <= self.max_bytes and free - needed >= _LEFT_FREE:
                    break
                Path(path).unlink(missing_ok=True)
                total, free = total - size, free + size


def _unfitting(path: Path, wanted: Wanted) -> str:
    found = path.stat().st_size
    if found != wanted.bytes:
        return f"{found:,}"
    if wanted.sha256 is None:
        return ""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return "" if digest == wanted.sha256 else f"as many of SHA-256 {digest[:12]}…"


def _from_environment() -> int:
    given = os.environ.get(BYTES_VARIABLE)
    if given is None:
        return DEFAULT_BYTES
    if not given.isdecimal() or not int(given):
        raise DatasetError(f"{BYTES_VARIABLE}: expected a number of bytes, found {given!r}")
    return int(given)
