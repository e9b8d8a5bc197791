"""Worker processes: Ctrl-C, sent to all of them, stays the parent's to answer; they and it notice deaths."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess


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


def end_with_parent() -> None:
    """End this process, which multiprocessing made, at once when the one that asked for it is gone.

    However that one went, and also for workers of a fork server, which outlives it: the end of a pipe tells,
    the other end of which it alone has. Does nothing more than watch from a thread.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is no worker"
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
