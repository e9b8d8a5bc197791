"""Exclusive use: of a file or folder by one process, where the file system can enforce it; by one thread."""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

_AGAIN_SECONDS = 0.02
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class Held(Exception):  # noqa: N818 (it is a state, and each caller says in its own words what to do)
    """Another process has the lock."""


@contextmanager
def exclusive(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock file `path`, which is there only meanwhile; yield False where there are no locks.

    The lock ends with the process, however that ends, and is not inherited; a file left by a kill locks
    nothing. Raises Held if another process has it and `wait` is false.
    """
    descriptor, locked = _acquired(path, wait)
    owner = os.getpid()
    try:
        yield locked
    finally:
        if locked and os.getpid() == owner:  # a process forked meanwhile may leave this block, too
            path.unlink(missing_ok=True)
        os.close(descriptor)


class ThreadLock:
    """Exclusive use by one thread, for modules: a process that is forked meanwhile finds it free."""

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _renew(self) -> None:
        self._lock = threading.Lock()


def _acquired(path: Path, wait: bool) -> tuple[int, bool]:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            locked = _locked(descriptor, wait)
            if not locked or _is_still(path, descriptor):
                return descriptor, locked
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last owner removed it between opening and locking: there may be another


def _locked(descriptor: int, wait: bool) -> bool:
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # One thread may wait for a process that waits for another thread: the system sees processes.
            if error.errno == errno.EDEADLK:
                time.sleep(_AGAIN_SECONDS)
                continue
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise Held from None
            if error.errno not in _NO_LOCKS:
                raise
            return False
        return True


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
