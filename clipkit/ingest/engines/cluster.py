"""What Ray and Spark have in common: one task a chunk, on nodes that share the dataset's directory."""

import re
import socket
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from typing import Protocol

from clipkit._version import VERSION
from clipkit.errors import EngineError, NetworkError
from clipkit.ingest.engines.engine import Outcomes
from clipkit.ingest.engines.jobs import Job, Jobs
from clipkit.ingest.preflight import preflight
from clipkit.ingest.rows import Chunk, ChunkOutcome, UrlRow
from clipkit.ingest.worker import SILENT_SECONDS, PartMaker, Underway
from clipkit.shards.dataset import DATASET_FILE

_TRIED_FIRST = -1  # the number of a chunk that is no part of the list
PATIENCE_SECONDS = 600.0  # time enough for a cluster that starts its nodes when they are asked for

_PYTHON_ERROR = re.compile(r"^(\w+(?:Error|Exception): .*)$", re.MULTILINE)

Answer = ChunkOutcome | Exception


@dataclass(frozen=True, slots=True)
class Task:
    """What goes to a node: call it on a chunk. It returns what `make_part` raises, so that whatever comes
    from a cluster as an exception is the cluster's own failure.
    """

    make_part: PartMaker
    dataset: bytes

    @classmethod
    def of(cls, make_part: PartMaker) -> "Task":
        """Make the task of `make_part`: it refuses to work where another directory, or none, has its name."""
        directory = make_part.directory.absolute()
        own = replace(make_part, directory=directory, tried_first=())
        return cls(own, (directory / DATASET_FILE).read_bytes())

    def __call__(self, chunk: Chunk) -> Answer:
        """Make the chunk's part; of the one that is no part of the list, see whether its hosts can be had."""
        try:
            self._check_directory()
            if chunk.number == _TRIED_FIRST:
                return self._check_network(chunk)
            return self.make_part(chunk)
        except Exception as error:
            error.add_note("".join(traceback.format_exception(error)))  # the way there does not travel along
            return error

    def _check_directory(self) -> None:
        path = self.make_part.directory / DATASET_FILE
        if not path.is_file() or path.read_bytes() != self.dataset:
            raise EngineError(
                f"{path.parent}: expected a directory that all nodes of the cluster share, found that "
                f"{socket.gethostname()} sees another one, or none; choose --out on shared storage"
            )

    def _check_network(self, chunk: Chunk) -> ChunkOutcome:
        try:
            preflight(chunk.rows, self.make_part.config)
        except NetworkError as error:
            raise NetworkError(f"on {socket.gethostname()}: {error}") from None
        return ChunkOutcome(chunk.number, 0, {}, 0)


class Cluster(Protocol):
    """What a cluster can do for `map_chunks`."""

    def submit(self, chunk: Chunk) -> "Future[Answer]":
        """Start the task for a chunk. The future raises if the cluster loses it."""

    def cause(self, error: BaseException) -> str:
        """Say in words why a task was lost. Raises EngineError if no node can run it, or there is none."""

    def has_nodes(self) -> bool:
        """Tell whether a task can run now or soon. Raises EngineError if the cluster is gone."""

    def stop(self, underway: "Iterable[Future[Answer]]") -> None:
        """End the tasks that are underway."""


def map_chunks(
    cluster: Cluster,
    chunks: Iterator[Chunk],
    workers: int,
    window: int,
    tried_first: tuple[UrlRow, ...] = (),
) -> Outcomes:
    """Keep `workers` tasks underway, as an Engine does; a chunk whose task was lost is tried once more.

    With rows to be `tried_first` one task begins alone, and only sees whether its node has a network.
    """
    jobs = Jobs(chunks, window)
    first = Job(Chunk(_TRIED_FIRST, tried_first), 1)
    running: dict[Future[Answer], Job] = {}
    heard = time.monotonic()
    try:
        if tried_first:
            running[cluster.submit(first.chunk)] = first
        while True:
            is_tried = first not in running.values()
            while (
                is_tried and len(running) < workers and (job := jobs.suspect() or jobs.new(running.values()))
            ):
                running[cluster.submit(job.chunk)] = job
            if not running:
                return
            ended, _ = wait(running, timeout=SILENT_SECONDS, return_when=FIRST_COMPLETED)
            if ended or cluster.has_nodes():
                heard = time.monotonic()
            elif time.monotonic() - heard > PATIENCE_SECONDS:
                raise EngineError(
                    f"expected nodes to run on, found none for {PATIENCE_SECONDS / 60:.0f} minutes; "
                    "run the same command again when there are some"
                )
            for future in ended:
                job, error = running.pop(future), future.exception()
                cause = cluster.cause(error) if error else ""
                outcome = None if error else _outcome(future.result(), job)
                if job is first:
                    continue  # whoever lost it would lose a chunk too, which is told
                if outcome is None:
                    yield from jobs.again([job], cause)
                else:
                    yield outcome
            yield Underway(())
    finally:
        cluster.stop([future for future in running if not future.done()])


def _outcome(answer: Answer, job: Job) -> ChunkOutcome:
    if isinstance(answer, Exception):
        raise answer
    assert answer.number == job.chunk.number
    return answer


def unfit(engine: str, error: BaseException) -> EngineError:
    """Return what to raise where a node cannot run a task at all; its Python says why."""
    told = _PYTHON_ERROR.findall(str(error)) or str(error).splitlines() or [type(error).__name__]
    return EngineError(
        f"--engine {engine}: expected nodes with clipkit {VERSION} and the same Python, found {told[-1]}"
    )


def gone(engine: str, why: str = "") -> EngineError:
    """Return what to raise where Ray or Spark itself is no longer there, if known with `why`."""
    return EngineError(
        f"--engine {engine}: {engine.capitalize()}'s own process on this machine is gone"
        f"{f' ({why})' if why else ''}; what was finished is kept: run the same command again"
    )
