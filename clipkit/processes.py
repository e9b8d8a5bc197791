"""Worker processes: what they may; Ctrl-C stays their parent's; neither survives the other unaware."""

import ctypes
import gc
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir
from pathlib import Path
from select import select
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_MOST_KEPT_BYTES = 64_000_000
_LARGEST_KEPT_BYTES = 32_000_000  # more is not allowed
_LONGEST_FOLDER = 107 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")  # that a socket's name fits behind
_ENDING_SECONDS = 5
_LIMITED = threading.RLock()
_unlimited: tuple[int, int] | None = None  # what the limit was, while there is one of ours


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes started inside never get SIGINT or SIGUSR1: they inherit them blocked.

    The parent gets them on leaving. So it does SIGTERM: a parent that goes while a worker starts would leave
    that one with half of its orders.
    """
    _make_folder_of_sockets()
    with _LIMITED:  # they would inherit the limit
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        # The first process that multiprocessing spawns brings its tracker along, whose start unblocks SIGINT.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _held_back():
                yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def main_file_that_is_there() -> Iterator[None]:
    """Processes started inside import the program's file only if there is one: `python - < FILE` has none."""
    main = vars(sys.modules["__main__"])
    name = main.get("__file__")
    if name is None or Path(name).exists():
        yield
        return
    del main["__file__"]
    try:
        yield
    finally:
        main["__file__"] = name


def begin_fork_server(modules: Sequence[str]) -> None:
    """Begin the server from which workers are forked, unless there is one: it imports these modules."""
    with deaf_to_interrupts():
        multiprocessing.set_forkserver_preload(list(modules))
        try:
            forkserver.ensure_running()
        except ChildProcessError:  # it is that of the program which this process was forked from
            forkserver._forkserver.__init__()  # type: ignore[misc]
            multiprocessing.set_forkserver_preload(list(modules))
            forkserver.ensure_running()


def _make_folder_of_sockets() -> None:
    # Before the first worker, which is to remove it if this process is killed. multiprocessing has it in
    # $TMPDIR, which on a cluster may be too long: Linux takes 107 bytes.
    before = tempfile.gettempdir()
    if len(os.fsencode(before)) > _LONGEST_FOLDER:
        tempfile.tempdir = "/tmp"  # noqa: S108 (there it makes a folder that only the user may enter)
    try:
        get_temp_dir()  # which is kept for all that follows
    finally:
        tempfile.tempdir = before


@contextmanager
def _held_back() -> Iterator[None]:
    # Blocking is not enough: another thread may take a signal, and Python then acts in the main one.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        if callable(signal.getsignal(number))
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for each in came[:1]:
            signal.raise_signal(each)


def allow_files(count: int) -> bool:
    """Let this process have `count` files open at a time, or as many as it may; return whether it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed == count


@contextmanager
def at_most_more_memory(count: int) -> Iterator[None]:
    """Let this process take `count` bytes beyond what it has: more is refused to whatever asks inside.

    Libraries have limits of their own that do not hold for all that they allocate. Where the system does not
    tell what the process has, nothing is limited. One thread at a time is inside: the limit is the process's.
    """
    with _LIMITED, _limited(count):
        yield


@contextmanager
def _limited(count: int) -> Iterator[None]:
    try:
        statm = Path("/proc/self/statm").read_text()
        pages = int(statm.split()[5])  # of data and stacks, as the limit counts
    except (OSError, IndexError, ValueError):
        yield
        return
    global _unlimited
    outer, (soft, hard) = _unlimited, resource.getrlimit(resource.RLIMIT_DATA)
    most = pages * resource.getpagesize() + count
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    _unlimited = outer or (soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (min([most, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        _unlimited = outer


def _renew_limit() -> None:
    """In a process that was forked: another thread had the limit, and the lock, and is not here."""
    global _LIMITED, _unlimited
    _LIMITED = threading.RLock()
    if _unlimited:
        resource.setrlimit(resource.RLIMIT_DATA, _unlimited)
        _unlimited = None


os.register_at_fork(after_in_child=_renew_limit)


def end_with_parent() -> None:
    """End this process, which multiprocessing made, at once when the one that asked for it is gone.

    However that one went, and also for workers of a fork server, which outlives it: the end of a pipe tells,
    the other end of which it alone has. Does nothing more than watch from a thread, and keep quiet about
    connections that break meanwhile.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is no worker"
    sys.excepthook = _quiet_about_connections
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _quiet_about_connections(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    # The thread that hands over shared memory shows, by this hook, what breaks because the parent is gone.
    if not isinstance(error, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    folder = multiprocessing.current_process()._config.get("tempdir")  # type: ignore[attr-defined]
    # Else it may be that of another process, or this one's: who lost the fork server goes on.
    if folder and parent.name == "MainProcess" and _is_gone(parent.pid):
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _is_gone(process: int | None) -> bool:
    """Tell whether a process ends within a few seconds: its pipes are closed a little before."""
    assert process is not None
    try:
        descriptor = os.pidfd_open(process)
    except (OSError, AttributeError):  # it is not there, or the system does not tell
        return True
    return bool(select([descriptor], [], [], _ENDING_SECONDS)[0])


@contextmanager
def lasting() -> Iterator[None]:
    """What is imported inside stays to the end: no collection of garbage looks at it, the last neither.

    Ingest imports 50,000 objects; to look at them again and again is a third of what they cost.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def keep_freed_memory() -> None:
    """Let this process keep what it frees, some MB at most, for the next that it asks for.

    glibc by itself gives a picture's memory back, and the system hands it out anew for the next picture page
    by page, each filled with zeros first. Elsewhere this does nothing.
    """
    with suppress(AttributeError, OSError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT_BYTES)
        allocator.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)


def give_back_freed_memory() -> None:
    """Give the system what this process has freed, of which glibc keeps what lies below something in use.

    Elsewhere this does nothing.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory() -> int:
    """Return the most memory in bytes that this process has had at a time (its peak resident set)."""
    with suppress(OSError, ValueError):  # getrusage's begins with that of the process that started this one
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split("kB")[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
