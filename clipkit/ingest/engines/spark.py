"""Spark: the master that its own settings or MASTER name, else this machine."""

import re
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from clipkit.ingest.engines.cluster import Answer, Task, gone, map_chunks, unfit
from clipkit.ingest.engines.connections import spark_context
from clipkit.ingest.engines.engine import Outcomes
from clipkit.ingest.engines.extras import extra
from clipkit.ingest.rows import Chunk
from clipkit.ingest.worker import PartMaker

_FAILURE = re.compile(r"most recent failure: (?:Lost task .*?\): )?(?:[\w.]+: )?([^\n]*)")


def on_spark(make_part: PartMaker, chunks: Iterator[Chunk], workers: int, window: int) -> Outcomes:
    """Run `workers` jobs of one task at once (an Engine): so each chunk's outcome comes when it ends."""
    extra("pyspark", "spark")
    with spark_context(workers) as context, ThreadPoolExecutor(workers, "spark") as threads:
        cluster = _Spark(context, Task.of(make_part), threads)
        yield from map_chunks(cluster, chunks, workers, window, make_part.tried_first)


class _Spark:
    def __init__(self, context: Any, task: Task, threads: ThreadPoolExecutor):
        self._context = context
        self._task = task
        self._threads = threads
        self._group = uuid.uuid4().hex

    def submit(self, chunk: Chunk) -> Future[Answer]:
        return self._threads.submit(self._run, chunk)

    def _run(self, chunk: Chunk) -> Answer:
        self._context.setJobGroup(self._group, "clipkit ingest", interruptOnCancel=True)
        (answer,) = self._context.parallelize([chunk], 1).map(self._task).collect()
        return answer  # type: ignore[no-any-return]

    def cause(self, error: BaseException) -> str:
        if "PythonException" in type(error).__name__ + str(error):
            raise unfit("spark", error)
        self.has_nodes()
        found = _FAILURE.search(str(error))
        return found[1] if found else str(error).splitlines()[0]

    def has_nodes(self) -> bool:
        try:
            context = self._context._jsc.sc()
            if not context.isStopped():
                return bool(context.isLocal() or context.getExecutorMemoryStatus().size() > 1)  # the driver's
        except Exception as error:  # Java is gone, which Py4J tells in many ways
            raise gone("spark", str(error)) from None
        raise gone("spark", "it stopped")

    def stop(self, underway: Iterable[Future[Answer]]) -> None:
        with suppress(Exception):
            self._context.cancelJobGroup(self._group)
