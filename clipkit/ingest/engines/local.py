"""The engine that is always there: a pool of processes on this machine."""

import multiprocessing
import queue
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from clipkit.errors import EngineError
from clipkit.ingest.engines.engine import Outcomes
from clipkit.ingest.engines.jobs import Job, Jobs
from clipkit.ingest.rows import Chunk, ChunkOutcome
from clipkit.ingest.worker import PartMaker, Underway
from clipkit.processes import deaf_to_interrupts, end_with_parent

_STARTS = 3
_BETWEEN_STARTS_SECONDS = 0.1


def local(make_part: PartMaker, chunks: Iterator[Chunk], workers: int, window: int) -> Outcomes:
    """Run in `workers` processes of this machine, each overlapping several chunks (an Engine).

    They ignore Ctrl-C, are stopped when the outcomes are closed, and end when this process dies in
    whatever way. The chunks of a worker that died are tried once more, each alone, so that one which kills
    its worker takes no other along. Raises what `make_part` raises.
    """
    pool: list[_Worker] = []
    try:
        for _ in range(workers):
            pool.append(_Worker(make_part))
        jobs = Jobs(chunks, window)
        while True:
            _give_out(jobs, pool, window)
            busy = {worker.connection: worker for worker in pool if worker.jobs}
            if not busy:
                return
            for connection in wait(list(busy)):
                news = busy[connection].take()  # type: ignore[index]
                if isinstance(news, _Died):
                    yield from jobs.again(*news)
                elif news is not None:
                    yield news
    finally:
        for worker in pool:
            worker.stop()


class _Died(NamedTuple):
    jobs: list[Job]
    cause: str


class _Wanted(NamedTuple):
    """A worker's word that it could do with another chunk."""


def _give_out(jobs: Jobs, pool: "list[_Worker]", window: int) -> None:
    for worker in pool:
        if not worker.jobs and (suspect := jobs.suspect()):
            worker.give(suspect, alone=True)
        elif worker.wants_more(window // len(pool)):
            underway = (job for each in pool for job in each.jobs.values())
            if new := jobs.new(underway):
                worker.give(new)


class _Worker:
    """A process that makes parts, several at once, and the connection to it."""

    def __init__(self, make_part: PartMaker):
        self._make_part = make_part
        self._start()

    def _start(self) -> None:
        # Forked from a server that has imported all they need, once: a third of a second a worker. Not from
        # this process: that fork would inherit locks and threads in whatever state they are.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([f"{__package__}.preload"])
        self.jobs: dict[int, Job] = {}
        self._wanting = True
        self._alone = False
        for left in reversed(range(_STARTS)):
            ours, theirs = context.Pipe()
            try:
                with deaf_to_interrupts(), theirs:
                    process = context.Process(target=_work, args=(theirs, self._make_part), daemon=True)
                    process.start()
                break
            except (EOFError, ConnectionError):  # that server died; the next start makes another
                ours.close()
                if not left:
                    raise EngineError(
                        "expected workers to start, found that what starts them dies each time; is there "
                        "memory enough? Run the same command again, perhaps with fewer --workers"
                    ) from None
                time.sleep(_BETWEEN_STARTS_SECONDS)
        self.connection, self._process = ours, process

    def wants_more(self, most: int) -> bool:
        return not self.jobs or (self._wanting and not self._alone and len(self.jobs) < most)

    def give(self, job: Job, *, alone: bool = False) -> None:
        self.jobs[job.chunk.number] = job
        self._wanting, self._alone = False, alone
        with suppress(ConnectionError):  # it died idle: noticed when its answer is read
            self.connection.send(job.chunk)

    def take(self) -> ChunkOutcome | Underway | _Died | None:
        """Return what it tells, if that is for others, or how it died (a new one is there).

        Raises its exceptions.
        """
        try:
            news = self.connection.recv()
        except (EOFError, OSError):  # the latter if it died over half a word
            return _Died(list(self.jobs.values()), self._restart())
        if isinstance(news, Exception):
            raise news
        if isinstance(news, _Wanted):
            self._wanting = True
            return None
        if isinstance(news, ChunkOutcome):
            del self.jobs[news.number]
            return news
        assert isinstance(news, Underway)
        return news

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


def _work(connection: "Connection[Any, Any]", make_part: PartMaker) -> None:
    chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
    end_with_parent()
    threading.Thread(target=_receive, args=(connection, chunks), daemon=True).start()
    try:
        for news in make_part.stream(_given(connection, chunks)):
            connection.send(news)
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))  # the way there does not travel along
        connection.send(error)


def _receive(connection: "Connection[Any, Any]", chunks: "queue.SimpleQueue[Chunk | None]") -> None:
    # Always read on: were both ends to wait until the other reads, neither would.
    with suppress(EOFError, OSError):
        while True:
            chunks.put(connection.recv())
    chunks.put(None)


def _given(
    connection: "Connection[Any, Any]", chunks: "queue.SimpleQueue[Chunk | None]"
) -> Iterator[Chunk | None]:
    wanted = True  # the first one comes without a word
    while True:
        try:
            chunk = chunks.get_nowait()
        except queue.Empty:
            if not wanted:
                connection.send(_Wanted())
                wanted = True
            yield None
            continue
        if chunk is None:
            return
        yield chunk
        wanted = False
