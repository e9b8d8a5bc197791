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
from clipkit.errors import EngineError
from clipkit.ingest.engines.engine import Outcomes
from clipkit.ingest.engines.jobs import Job, Jobs
from clipkit.ingest.rows import Chunk, ChunkOutcome
from clipkit.ingest.worker import SILENT_SECONDS, PartMaker, Underway
from clipkit.shards.dataset import DATASET_FILE

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
        return cls(replace(make_part, directory=directory), (directory / DATASET_FILE).read_bytes())

    def __call__(self, chunk: Chunk) -> Answer:
        """Make the chunk's part."""
        try:
            self._check_directory()
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


def map_chunks(cluster: Cluster, chunks: Iterator[Chunk], workers: int, window: int) -> Outcomes:
    """Keep `workers` tasks underway, as an Engine does; a chunk whose task was lost is tried once more."""
    jobs = Jobs(chunks, window)
    running: dict[Future[Answer], Job] = {}
    heard = time.monotonic()
    try:
        while True:
            while len(running) < workers and (job := jobs.suspect() or jobs.new(running.values())):
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
                if error := future.exception():
                    yield from jobs.again([running.pop(future)], cluster.cause(error))
                else:
                    yield _outcome(future.result(), running.pop(future))
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
