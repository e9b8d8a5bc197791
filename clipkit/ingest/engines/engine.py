"""What every engine does."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from clipkit.ingest.rows import Chunk, ChunkOutcome
from clipkit.ingest.worker import PartMaker, Underway

TRIES = 2


@dataclass(frozen=True, slots=True)
class Crashed:
    """A chunk whose worker died each of the TRIES times; `cause` is in words."""

    chunk: Chunk
    cause: str


Outcomes = Generator[ChunkOutcome | Underway | Crashed, None, None]

Engine = Callable[[PartMaker, Iterator[Chunk], int, int], Outcomes]
"""(make_part, chunks, workers, window) → outcomes in any order, and perhaps counts of what is underway. A
chunk is started only while its number is less than `window` above that of the oldest unfinished one. Closing
the outcomes stops the work. An engine that knows nothing of overlapping calls `make_part(chunk)`. Raises what
`make_part` raises, EngineError if there is nothing to run on or if it is gone."""
