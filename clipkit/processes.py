"""Starting worker processes so that Ctrl-C, sent to all of them, stays the parent's to answer."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes started inside never get SIGINT: they inherit it blocked. The parent gets it on leaving."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
