"""Worker processes of a torch DataLoader: their end, and the memory that they share with their parent."""

import errno
import multiprocessing
import os
import resource
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from typing import TypeVar

from clipkit.errors import ClipkitError
from clipkit.processes import deaf_to_interrupts, main_file_that_is_there

T = TypeVar("T")

_ENDING_SECONDS = 5
_SERVER_LOST = 255  # is told for the exit code of whom the fork server did not outlive
_ENDED_ITSELF = (
    "it ended by itself: mend what it printed above. A program begins workers under "
    '`if __name__ == "__main__":`, and what it hands them is defined in a file that they can import'
)
_LOCKS = 11  # of each worker of a DataLoader, at the most, a page of shared memory each
_SHARED = "/dev/shm"  # noqa: S108 (where Linux has it)


def watched(begin: Callable[[], Iterator[T]], error: type[ClipkitError], worker: str) -> Iterator[T]:
    """Yield what the workers of a torch DataLoader make, which `begin` starts; raise `error` if one dies.

    `begin` returns a DataLoader's iterator; `worker` names one of its workers in its line. What they raised
    themselves is raised as it is. None is left when this ends, however it does: one that hears nothing,
    stopped (SIGSTOP) or waiting for a disk, is killed.
    """
    if multiprocessing.current_process().daemon:
        raise error(
            "expected a process that may begin others, found one that is itself a worker, of a DataLoader "
            "perhaps: let it read with workers=0, as a rank of its own"
        )
    owner = os.getpid()
    workers: list[BaseProcess] = []
    made: Iterator[T] | None = None
    try:
        with main_file_that_is_there(), deaf_to_interrupts():  # what came meanwhile is raised on leaving
            made = begin()
            # By the iterator alone: other threads begin processes of their own meanwhile.
            workers = list(vars(made)["_workers"])
        yield from made
    except (RuntimeError, ConnectionError, EOFError) as found:
        line = str(found).partition("\n")[0]
        if line.startswith("Too many open files"):
            raise error(
                "expected to open a further file (a batch that is held is three), found "
                f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,} of them open, which is the limit: hold "
                "fewer batches, or raise it (`ulimit -n`)"
            ) from None
        # It died while its batch was fetched, or else is missed; "Caught …" is what a worker raised.
        broken = not isinstance(found, RuntimeError) and not line.startswith("Caught ")
        if not broken and not line.startswith("DataLoader worker"):
            raise
        cause = "the connection to it broke" if broken else line
        remedy = "make memory free or give fewer --workers, and run the same command again"
        if any(each.exitcode in range(1, _SERVER_LOST) for each in workers):  # no signal ended it
            remedy = _ENDED_ITSELF
        raise error(f"{worker} died, {cause}: {remedy}") from None
    finally:
        if os.getpid() == owner:
            with _at_most(_ENDING_SECONDS, partial(_kill, workers)):
                del made  # unless an error holds it, it asks them to end now, and waits for one by one
            _kill(workers)
            for each in workers:
                each.join(_ENDING_SECONDS)
        elif made is not None:  # this process was forked later: the workers are not its own to end
            vars(made)["_shutdown"] = True


def _kill(workers: Iterable[BaseProcess]) -> None:
    for each in workers:
        each.kill()


@contextmanager
def _at_most(seconds: float, end: Callable[[], None]) -> Iterator[None]:
    """Call `end`, in another thread, if the block has not been left in time."""
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    if not sys.is_finalizing():  # no thread starts then
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


_forks = 0


def forks() -> int:
    """Return how many processes were forked from this one so far: each shares what memory it shared then."""
    return _forks


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(before=_count_fork)


def only_here(action: Callable[..., object]) -> Callable[..., None]:
    """Return an action that does nothing in processes that are forked from this one."""
    owner = os.getpid()

    def act(*values: object) -> None:
        if os.getpid() == owner:
            action(*values)

    return act


@contextmanager
def sharing(error: type[ClipkitError]) -> Iterator[None]:
    """Raise `error` if the memory that processes share has no room for what torch puts there inside."""
    try:
        yield
    except RuntimeError as found:
        if "shared memory" not in str(found):
            raise
        raise _without_room(error, os.statvfs(_SHARED)) from None


def check_sharing(error: type[ClipkitError], workers: int) -> None:
    """Raise `error` if the memory that processes share has no room for the locks of so many workers.

    It is looked at before: where a DataLoader finds out, the error names no place, and others follow.
    """
    try:
        room = os.statvfs(_SHARED)
        if room.f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    except OSError as found:
        raise error(
            f"{_SHARED}: expected the memory that processes share, found: {found.strerror}; mount a tmpfs "
            "there that can be written, or give --workers 0"
        ) from None
    if room.f_blocks and room.f_bavail < _LOCKS * workers:  # no blocks: no limit
        raise _without_room(error, room)


def _without_room(error: type[ClipkitError], room: os.statvfs_result) -> ClipkitError:
    return error(
        f"{_SHARED}: expected room for the workers' batches, found {room.f_bavail * room.f_frsize:,} of "
        f"{room.f_blocks * room.f_frsize:,} bytes free: give a container more (`docker run "
        "--shm-size=16g`), or give fewer --workers or a smaller --batch-size"
    )
