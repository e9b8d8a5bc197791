"""A bounded folder of this machine for what is read behind addresses; shared by all processes.

A file is there under a name made of its address, size and hash. It is downloaded beside it, checked, and
renamed. What was not used for the longest time goes first when room is needed; who has it open goes on.
"""

import atexit
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from clipkit import scratch
from clipkit.atomic import flush, make_folder, temporary_path
from clipkit.digests import file_sha256
from clipkit.errors import DatasetError, StorageError
from clipkit.locations import download
from clipkit.locks import Held, exclusive
from clipkit.remote import TooLargeError
from clipkit.shards.copies import check_same, copy_name, is_as_made, seal, size_in
from clipkit.threads import not_waited_for

FOLDER_VARIABLE = "CLIPKIT_CACHE"
BYTES_VARIABLE = "CLIPKIT_CACHE_BYTES"
DEFAULT_BYTES = 100_000_000_000
_LEFT_FREE = 1_000_000_000
_DOWNLOADS = 2  # of what came whole but damaged; what does not come is waited for elsewhere
_ABSENT = "no such file"
_STALE_SECONDS = 3600  # since the last byte; a download that is silent so long has ended
_CLEARED_AT_END: set[Path] = set()
_OF_THREADS: dict[str, threading.Lock] = {}  # of all Caches, by path
_BEGUN: set[Path] = set()  # what this process's threads download
os.register_at_fork(after_in_child=_OF_THREADS.clear)  # those that held them are not there
os.register_at_fork(after_in_child=_BEGUN.clear)

Fetch = Callable[[Path, Path, int], None]


def user_cache() -> Path:
    """Return the user's folder for what can be made again: $CLIPKIT_CACHE, else by the XDG rules."""
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipkit"


class Wanted(NamedTuple):
    """A file behind an address: its size in bytes, and what else tells it from another one of that name.

    `sha256` (hex) is checked of what is downloaded; `version`, an ETag say, makes the name, and without a
    hash is still to be that of the file behind the address when it has been downloaded.
    """

    source: Path
    bytes: int
    sha256: str | None = None
    version: str = ""


class Cache:
    """Files behind addresses, as descriptors of copies on this machine. Picklable; any number of threads.

    `fetch(source, target, at_most)` makes the copies: it downloads, or unpacks a compressed file, and raises
    TooLargeError for more than `at_most` bytes.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int | None = None, fetch: Fetch | None = None):
        self.folder = folder or user_cache() / "files"
        if self.folder not in _CLEARED_AT_END:  # what workers that were ended leave, too
            _CLEARED_AT_END.add(self.folder)
            atexit.register(_clear_at_end, self.folder)
        self.max_bytes = max_bytes or _from_environment()
        self._fetch = fetch or download

    def __reduce__(self) -> tuple[type["Cache"], tuple[Path, int, Fetch]]:
        return Cache, (self.folder, self.max_bytes, self._fetch)

    def open(self, wanted: Wanted) -> int:
        """Return a descriptor of the file, which is downloaded if it is not there.

        Raises DatasetError if what is there is not that file, StorageError if it cannot be had, or this
        machine has no room for it: then nothing is known of the file.
        """
        path, is_new = self._path(wanted), False
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._fill(path, wanted)
                is_new = True
                continue
            except OSError as error:
                raise self._unfit(error) from None
            if os.fstat(descriptor).st_size == wanted.bytes and (
                is_new or is_as_made(descriptor, path, wanted.sha256)
            ):
                return descriptor
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def read(self, wanted: Wanted) -> bytes:
        """Return the file's content. Raises as `open`."""
        with os.fdopen(self.open(wanted), "rb") as file:
            return file.read()

    def fill(self, wanted: Wanted) -> None:
        """Download the file if it is not there, nor what others download now leaves no room for it.

        Raises as `open`.
        """
        path = self._path(wanted)
        if not path.exists():
            self._fill(path, wanted, ahead=True)

    def forget(self, wanted: Wanted) -> None:
        """Remove the copy of a file, which is not what it was any more: the next call gets it anew."""
        self._path(wanted).unlink(missing_ok=True)

    def known_by(self, wanted: Wanted, descriptor: int, sha256: str) -> Wanted:
        """Return the file with the SHA-256 that was found of its copy, which is open and keeps its place."""
        known = wanted._replace(sha256=sha256)
        before, path = self._path(wanted), self._path(known)
        if path != before:
            # By its descriptor: of that name there may be another by now. Without a link it is had again.
            with self._locked(path), suppress(OSError):
                os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)  # else not followed
                seal(descriptor, path)
            before.unlink(missing_ok=True)
        return known

    def check_fits(self, source: object, count: int) -> None:
        """Raise StorageError if a file of so many bytes is more than the cache may hold."""
        if count > self.max_bytes:
            raise StorageError(
                f"{source}: expected a cache that holds at least one file of {count:,} bytes, found one of "
                f"{self.max_bytes:,}; set {BYTES_VARIABLE} to more, best to all that is read"
            )

    def _path(self, wanted: Wanted) -> Path:
        # The hash of a version may become known only when it is here.
        known = "" if wanted.version else wanted.sha256 or ""
        return self.folder / copy_name(wanted.source, wanted.bytes, known, wanted.version)

    def _fill(self, path: Path, wanted: Wanted, *, ahead: bool = False) -> None:
        with not_waited_for(), self._locked(path), _begun(path):
            if path.exists():
                return
            for _ in range(_DOWNLOADS):
                found = self._downloaded(path, wanted, ahead)
                if not found:
                    return
        raise DatasetError(
            f"{wanted.source}: expected {wanted.bytes:,} bytes"
            f"{f' of SHA-256 {wanted.sha256[:12]}…' if wanted.sha256 else ''}, found {found}; "
            + ("restore it" if found == _ABSENT else "downloaded twice: is the file or connection damaged?")
        )

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        # A lock of the file system keeps other processes away, but not this one's threads; and it is lost
        # as soon as any of them closes the same file.
        with _OF_THREADS.setdefault(str(path), threading.Lock()), ExitStack() as stack:
            try:
                make_folder(self.folder)
                stack.enter_context(exclusive(_lock_of(path), wait=True))
            except OSError as error:
                raise self._unfit(error) from None
            yield

    def _unfit(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self.folder}: expected a folder for copies of what lies behind addresses, found: "
            f"{error.strerror}; set {FOLDER_VARIABLE} to one that can be written"
        )

    def _downloaded(self, path: Path, wanted: Wanted, ahead: bool) -> str:
        """Download once, `ahead` only if there is room; return what is wrong with what came, or nothing."""
        self.check_fits(wanted.source, wanted.bytes)
        temporary = temporary_path(path)
        try:
            if not self._make_room(temporary, wanted.bytes, ahead):
                return ""
            self._fetch(wanted.source, temporary, wanted.bytes)
            if wanted.version and not wanted.sha256:
                check_same(wanted.source, wanted.version)
            found = _unfitting(temporary, wanted)
            if not found:
                seal(temporary, path)
                flush(temporary)  # else a power failure may leave zeros under the name of a whole file
                temporary.replace(path)
            return found
        except FileNotFoundError:
            return _ABSENT
        except TooLargeError:
            return "more"
        except OSError as error:
            if not scratch.is_full(error):
                raise self._unfit(error) from None
            raise StorageError(
                f"{self.folder}: expected room for {wanted.bytes:,} bytes of {wanted.source}, found the "
                f"disk full; make room, or set {FOLDER_VARIABLE} to a folder on a larger disk"
            ) from None
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, temporary: Path, needed: int, ahead: bool) -> bool:
        """Remove what was used the longest ago until there is room; `temporary` then stands for it.

        Return whether it does: if what comes `ahead` has to wait for other downloads, nothing is removed.
        """
        with self._locked(self.folder / "room"):
            _clear_dead(self.folder)
            now, files, coming, outstanding = time.time(), [], 0, 0
            for entry in os.scandir(self.folder):
                try:
                    found = entry.stat()
                except FileNotFoundError:
                    continue
                if not entry.name.startswith("."):
                    files.append((found.st_atime_ns, found.st_size, entry.path))
                elif not entry.name.endswith(".tmp"):
                    continue
                elif now - found.st_ctime > _STALE_SECONDS:  # the time of change is the seal
                    Path(entry.path).unlink(missing_ok=True)
                else:  # others download it now
                    whole = max(size_in(entry.name), found.st_size)
                    coming, outstanding = coming + whole, outstanding + whole - found.st_size
            if ahead and coming + needed > self.max_bytes:
                return False
            total = sum(size for _, size, _ in files) + coming
            free = shutil.disk_usage(self.folder).free - outstanding
            for _, size, path in sorted(files):
                if total + needed <= self.max_bytes and free - needed >= _LEFT_FREE:
                    break
                Path(path).unlink(missing_ok=True)
                total, free = total - size, free + size
            temporary.touch()
            return True


@contextmanager
def _begun(path: Path) -> Iterator[None]:
    _BEGUN.add(path)
    try:
        yield
    finally:
        _BEGUN.discard(path)


def _clear_at_end(folder: Path) -> None:
    """Remove what was not downloaded whole: the process's end waits for no thread that does it."""
    for path in list(_BEGUN):
        if path.parent == folder:
            with suppress(OSError):
                temporary_path(path)
                _lock_of(path).unlink()
    _clear_dead(folder)


def _clear_dead(folder: Path) -> None:
    """Remove what downloads left whose process, or thread, is gone: nobody holds their locks."""
    with suppress(OSError):
        names = {each.name[1:].rpartition(".")[0] for each in os.scandir(folder) if each.name.startswith(".")}
        for name in names:
            path = folder / name
            thread = _OF_THREADS.setdefault(str(path), threading.Lock())
            if not thread.acquire(blocking=False):
                continue
            try:
                with suppress(Held, OSError), exclusive(_lock_of(path)) as locked:
                    if locked:
                        temporary_path(path)
            finally:
                thread.release()


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _unfitting(path: Path, wanted: Wanted) -> str:
    found = path.stat().st_size
    if found != wanted.bytes:
        return f"{found:,}"
    if wanted.sha256 is None:
        return ""
    digest = file_sha256(path)
    return "" if digest == wanted.sha256 else f"as many of SHA-256 {digest[:12]}…"


def _from_environment() -> int:
    given = os.environ.get(BYTES_VARIABLE)
    if given is None:
        return DEFAULT_BYTES
    if not given.isdecimal() or not int(given):
        raise DatasetError(f"{BYTES_VARIABLE}: expected a number of bytes, found {given!r}")
    return int(given)
