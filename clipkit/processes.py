"""Worker processes: Ctrl-C, sent to all of them, stays the parent's to answer; and what memory they keep."""

import ctypes
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_MOST_KEPT_BYTES = 64_000_000
_LARGEST_KEPT_BYTES = 32_000_000  # more is not allowed


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes started inside never get SIGINT: they inherit it blocked. The parent gets it on leaving."""
    # The first process that multiprocessing spawns brings its tracker along, whose start unblocks SIGINT.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with(process: int) -> None:
    """End this process at once when `process`, its pid, is gone, however it went.

    For workers of a fork server, whose parent is the server: the pid must be handed to them. Does nothing
    more than watch from a thread; without pidfds (Linux before 5.3) the worker is left as it is.
    """
    try:
        watched = os.pidfd_open(process)
    except ProcessLookupError:
        os._exit(1)
    except (AttributeError, OSError):
        return
    threading.Thread(target=_end_after, args=(watched,), daemon=True).start()


def _end_after(watched: int) -> None:
    waiting = select.poll()  # unlike select, for descriptors of any number
    waiting.register(watched, select.POLLIN)
    waiting.poll()
    os._exit(1)


def keep_freed_memory() -> None:
    """Let this process keep what it frees, some MB at most, for the next that it asks for.

    glibc by itself gives a picture's memory back, and the system hands it out anew for the next picture page
    by page, each filled with zeros first. Elsewhere this does nothing.
    """
    with suppress(AttributeError, OSError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT_BYTES)
        allocator.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
