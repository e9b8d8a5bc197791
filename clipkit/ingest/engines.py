"""Engines map a function over chunks, somewhere. This one: a pool of processes on this machine."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from clipkit.ingest.rows import Chunk, ChunkOutcome
from clipkit.processes import deaf_to_interrupts

MakePart = Callable[[Chunk], ChunkOutcome]
"""What an engine maps; picklable."""

_TRIES = 2


@dataclass(frozen=True, slots=True)
class Crashed:
    """A chunk whose worker died each time that it was tried; `cause` is in words."""

    chunk: Chunk
    cause: str


Outcomes = Generator[ChunkOutcome | Crashed, None, None]

Engine = Callable[[MakePart, Iterator[Chunk], int, int], Outcomes]
"""(make_part, chunks, workers, window) → outcomes in any order. A chunk is started only while its number is
less than `window` above that of the oldest unfinished one. Closing the outcomes stops the work."""


def local(make_part: MakePart, chunks: Iterator[Chunk], workers: int, window: int) -> Outcomes:
    """Run in `workers` processes of this machine (an Engine).

    They ignore Ctrl-C, are stopped when the outcomes are closed, and end when this process dies in
    whatever way. A chunk whose worker died is tried once more. Raises what `make_part` raises.
    """
    pool = [_Worker(make_part) for _ in range(workers)]
    jobs = _Jobs(chunks, window)
    try:
        while True:
            for worker in pool:
                if worker.job is None and (job := jobs.next(pool)):
                    worker.give(job)
            busy = {worker.connection: worker for worker in pool if worker.job}
            if not busy:
                return
            for connection in wait(list(busy)):
                taken = busy[connection].take()  # type: ignore[index]
                outcome = jobs.again(taken) if isinstance(taken, _Died) else taken
                if outcome:
                    yield outcome
    finally:
        for worker in pool:
            worker.stop()


class _Job(NamedTuple):
    chunk: Chunk
    tries: int


class _Died(NamedTuple):
    job: _Job
    cause: str


class _Jobs:
    """What is still to be given out: chunks whose worker died, then new ones as far as the window goes."""

    def __init__(self, chunks: Iterator[Chunk], window: int):
        self._chunks = chunks
        self._window = window
        self._again: deque[_Job] = deque()
        self._following = next(chunks, None)

    def next(self, pool: "list[_Worker]") -> _Job | None:
        if self._again:
            return self._again.popleft()
        following = self._following
        unfinished = [worker.job.chunk.number for worker in pool if worker.job]
        if following is None or following.number - min(unfinished, default=following.number) >= self._window:
            return None
        self._following = next(self._chunks, None)
        return _Job(following, 1)

    def again(self, died: _Died) -> Crashed | None:
        if died.job.tries == _TRIES:
            return Crashed(died.job.chunk, died.cause)
        self._again.append(_Job(died.job.chunk, died.job.tries + 1))
        return None


class _Worker:
    """A process that makes parts, one after the other, and the connection to it."""

    def __init__(self, make_part: MakePart):
        self._make_part = make_part
        self._start()

    def _start(self) -> None:
        # Spawned, not forked: a fork would inherit locks and threads in whatever state they are.
        context = multiprocessing.get_context("spawn")
        self.job: _Job | None = None
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._make_part), daemon=True)
        with deaf_to_interrupts():
            self._process.start()
        theirs.close()

    def give(self, job: _Job) -> None:
        self.job = job
        with suppress(BrokenPipeError):  # it died idle: noticed when its answer is read
            self.connection.send(job.chunk)

    def take(self) -> ChunkOutcome | _Died:
        """Return the outcome, or how the process died (a new one is there). Raises its exceptions."""
        job, self.job = self.job, None
        assert job is not None
        try:
            outcome = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return _Died(job, self._restart())
        if isinstance(outcome, Exception):
            raise outcome
        assert isinstance(outcome, ChunkOutcome)
        return outcome

    def _restart(self) -> str:
        self._process.join()
        code = self._process.exitcode or 0
        self.connection.close()
        self._start()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _work(connection: "Connection[Any, Any]", make_part: MakePart) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    while True:
        try:
            chunk = connection.recv()
        except EOFError:
            return
        try:
            connection.send(make_part(chunk))
        except Exception as error:
            error.add_note("".join(traceback.format_exception(error)))  # the way there does not travel along
            connection.send(error)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
