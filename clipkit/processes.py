"""Starting worker processes so that Ctrl-C, sent to all of them, stays the parent's to answer."""

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


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


@contextmanager
def own_signals() -> Iterator[None]:
    """Put the handlers of Ctrl-C and SIGTERM back that a library called inside replaces by its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
