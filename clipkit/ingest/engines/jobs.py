"""What is still to be tried: chunks whose worker died, then new ones as far as the window goes."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from clipkit.ingest.engines.engine import TRIES, Crashed
from clipkit.ingest.rows import Chunk


class Job(NamedTuple):
    """A chunk that is given out for the so-manieth time, from 1."""

    chunk: Chunk
    tries: int


class Jobs:
    """The chunks of an engine: which to give out next, and what becomes of those whose worker died."""

    def __init__(self, chunks: Iterator[Chunk], window: int):
        self._chunks = chunks
        self._window = window
        self._suspects: deque[Job] = deque()
        self._following = next(chunks, None)

    def suspect(self) -> Job | None:
        """Return a chunk whose worker died, if there is one: to be given out before any new one."""
        return self._suspects.popleft() if self._suspects else None

    def new(self, underway: Iterable[Job]) -> Job | None:
        """Return the next chunk, if it is in the window over those `underway` and those to be tried again."""
        chunk = self._following
        if chunk is None:
            return None
        unfinished = (job.chunk.number for jobs in (underway, self._suspects) for job in jobs)
        if chunk.number - min(unfinished, default=chunk.number) >= self._window:
            return None
        self._following = next(self._chunks, None)
        return Job(chunk, 1)

    def again(self, died: Iterable[Job], cause: str) -> Iterator[Crashed]:
        """Keep what may be tried again; yield the others, given up because of `cause`."""
        for job in died:
            if job.tries == TRIES:
                yield Crashed(job.chunk, cause)
            else:
                self._suspects.append(Job(job.chunk, job.tries + 1))
