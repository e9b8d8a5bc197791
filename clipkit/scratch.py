"""Temporary files of this machine that no kill leaves behind for long: the next start removes them.

All lie in one folder of the user's, in a folder for each process that has any. That one belongs to its
process as long as this holds the lock beside it; whose lock nobody holds is of a dead one.
"""

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from clipkit.errors import StorageError
from clipkit.locks import Held, ThreadLock, exclusive

_LOCK = ".lock"
_making = ThreadLock()
_own: "_Own | None" = None
_ended = False
_TRIES = 100


class _Own(NamedTuple):
    process: int
    place: Path
    lock: ExitStack


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a new folder for temporary files, which is removed with all that is in it.

    Raises OSError as the file system does, StorageError if the place for it is somebody else's, or if this
    process has cleared it.
    """
    place = _of_this_process() / secrets.token_hex(8)
    place.mkdir(mode=0o700)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def is_full(error: BaseException) -> bool:
    """Tell whether an error is that this machine's disk is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def told_if_full(what: object) -> Iterator[None]:
    """Raise StorageError if there is no room for `what`, which is written into a `folder` inside."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise StorageError(
            f"{tempfile.gettempdir()}: expected room for {what}, found the disk full; make room, or set "
            "TMPDIR to a folder on a larger disk"
        ) from None


def clear() -> None:
    """Remove what dead processes left, and this one's, which ends and gets no more."""
    global _ended, _own
    with _making:
        _ended = True
    if _own is not None and _own.process == os.getpid():
        for _ in range(_TRIES):  # a thread that downloads yet may put something into what is just removed
            shutil.rmtree(_own.place, ignore_errors=True)
            if not _own.place.exists():
                break
        _own.lock.close()
        _own = None
    with suppress(OSError):
        _clear_dead(_root())
        _root().rmdir()


def _of_this_process() -> Path:
    global _own
    with _making:  # a thread would take for dead what another one just makes
        if _ended:
            raise StorageError("expected temporary files only while the command runs, found that it ends")
        if _own is None or _own.process != os.getpid() or not _own.place.is_dir():
            _own = _new(_root())
        return _own.place


def _root() -> Path:
    return Path(tempfile.gettempdir()) / f"clipkit-{os.getuid()}"


def _new(root: Path) -> _Own:
    with suppress(FileExistsError):
        root.mkdir(mode=0o700)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise StorageError(
            f"{root}: expected a folder of this user's alone, found another one; remove it, or set TMPDIR"
        )
    _clear_dead(root)
    place = root / f"{os.getpid()}-{secrets.token_hex(4)}"
    lock = ExitStack()
    lock.enter_context(exclusive(place.with_name(place.name + _LOCK), wait=True))
    place.mkdir(mode=0o700)
    return _Own(os.getpid(), place, lock)


def _clear_dead(root: Path) -> None:
    own = _own.place.name if _own and _own.process == os.getpid() else ""
    for name in {entry.name.removesuffix(_LOCK) for entry in os.scandir(root)} - {own}:
        with suppress(Held, OSError), exclusive(root / (name + _LOCK)) as locked:
            if locked:
                shutil.rmtree(root / name, ignore_errors=True)
