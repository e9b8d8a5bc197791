"""Spark: the master that its own settings or MASTER name, else this machine."""

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from clipkit.errors import EngineError
from clipkit.ingest.engines.cluster import Answer, Task, knock, map_chunks, unfit
from clipkit.ingest.engines.engine import Outcomes
from clipkit.ingest.engines.extras import extra
from clipkit.ingest.rows import Chunk
from clipkit.ingest.worker import PartMaker
from clipkit.processes import own_signals

_SETTINGS = {
    "spark.app.name": "clipkit ingest",
    "spark.log.level": "OFF",
    "spark.task.maxFailures": "1",  # chunks are tried again by us, as with every engine
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}
_HERE = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
_FAILURE = re.compile(r"most recent failure: (?:Lost task .*?\): )?(?:[\w.]+: )?([^\n]*)")


def on_spark(make_part: PartMaker, chunks: Iterator[Chunk], workers: int, window: int) -> Outcomes:
    """Run `workers` jobs of one task at once (an Engine): so each chunk's outcome comes when it ends."""
    extra("pyspark", "spark")
    with _context(workers) as context, ThreadPoolExecutor(workers, "spark") as threads:
        cluster = _Spark(context, Task.of(make_part), threads)
        try:
            yield from map_chunks(cluster, chunks, workers, window)
        finally:
            cluster.stop()


@contextmanager
def _context(workers: int) -> Iterator[Any]:
    from py4j.protocol import Py4JError
    from pyspark import SparkConf, SparkContext
    from pyspark.errors import PySparkException
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession

    if session := SparkSession.getActiveSession():
        yield session.sparkContext
        return
    os.environ.setdefault("MASTER", f"local[{workers}]")  # asked last, after all of Spark's own settings
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    try:
        with own_signals():
            gateway = launch_gateway(popen_kwargs={"stderr": subprocess.DEVNULL})
            conf = SparkConf(_jvm=gateway.jvm).setAll(_SETTINGS.items())
            if (master := conf.get("spark.master")).startswith("local"):
                conf.setAll(_HERE.items())
            elif master.startswith("spark://"):
                knock(master)
            context = SparkContext(conf=conf, gateway=gateway)
    except (OSError, ValueError, PySparkException, Py4JError) as error:
        why = str(getattr(error, "java_exception", None) or error).strip().splitlines()[0]
        raise EngineError(
            f"--engine spark: expected Java 17 or newer and a master that answers, found {why}"
        ) from None
    context._accumulatorServer.handle_error = lambda *_: None  # else a traceback tells that Java is gone
    try:
        yield context
    finally:
        with suppress(Exception):  # with Java gone there is nothing to be stopped
            context.stop()


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
            raise _gone(error) from None
        raise _gone(RuntimeError("it stopped"))

    def stop(self) -> None:
        with suppress(Exception):
            self._context.cancelJobGroup(self._group)


def _gone(error: Exception) -> EngineError:
    return EngineError(
        f"--engine spark: Spark's own process on this machine is gone ({error}); what was finished is kept: "
        "run the same command again"
    )
