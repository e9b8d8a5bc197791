"""The way to Ray and to Spark: a cluster that their own settings name, else one begun on this machine."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from clipkit.errors import EngineError
from clipkit.signals import own_signals

_RAY_STORE_BYTES = 128 << 20  # the least that Ray is content with is far more than what lies in it
_SPARK_SETTINGS = {
    "spark.app.name": "clipkit ingest",
    "spark.log.level": "OFF",
    "spark.task.maxFailures": "1",  # chunks are tried again by us, as with every engine
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}
_SPARK_HERE = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}


@contextmanager
def ray_connected(ray: Any, workers: int) -> Iterator[None]:
    """Connect `ray` to a cluster that is there, or begin one of so many workers. Raises EngineError."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    own = {"num_cpus": workers, "object_store_memory": _RAY_STORE_BYTES, "include_dashboard": False}
    try:
        with own_signals():
            ray.init(**quiet) if _ray_is_there(ray) else ray.init(address="local", **own, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise EngineError(
            f"--engine ray: expected a cluster that answers, found {str(error).splitlines()[0]}; see to "
            "RAY_ADDRESS and RAY_AUTH_MODE, or let `ray stop` forget a cluster that is gone"
        ) from None
    ray._private.worker.print_to_stdstream = lambda *_, **__: None  # pages of a lost node's log, on stdout
    try:
        yield
    finally:
        ray.shutdown()


def _ray_is_there(ray: Any) -> bool:
    """Tell whether there is a cluster. Raises OSError if it does not answer."""
    address = os.environ.get("RAY_ADDRESS") or ray._private.services.canonicalize_bootstrap_address(None)
    if address in (None, "local"):
        return False
    _knock(address)
    return True


@contextmanager
def spark_context(workers: int) -> Iterator[Any]:
    """Yield the context of a session that is active, or of one with a master that is there or begun here.

    Raises EngineError.
    """
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
            with _ended_if_interrupted():
                gateway = launch_gateway(popen_kwargs={"stderr": subprocess.DEVNULL})
            conf = SparkConf(_jvm=gateway.jvm).setAll(_SPARK_SETTINGS.items())
            if (master := conf.get("spark.master")).startswith("local"):
                conf.setAll(_SPARK_HERE.items())
            elif master.startswith("spark://"):
                _knock(master)
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


@contextmanager
def _ended_if_interrupted() -> Iterator[None]:
    """End what PySpark starts inside if that does not come to its end: Java, which then waits for ever."""
    from pyspark import java_gateway

    begin, processes = java_gateway.Popen, []

    def begin_noted(*command: Any, **settings: Any) -> Any:
        processes.append(begin(*command, **settings))
        return processes[-1]

    java_gateway.Popen = begin_noted
    try:
        yield
    except BaseException:
        for process in processes:
            process.kill()
        raise
    finally:
        java_gateway.Popen = begin


def _knock(addresses: str) -> None:
    """Connect to one of `scheme://host:port,…`: Ray and Spark themselves would try for minutes.

    Raises OSError if none of them takes a connection.
    """
    refused = None
    for address in addresses.rpartition("://")[2].split(","):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            refused = OSError(f"{address}: {error.strerror or error}")
        except ValueError:
            return  # no port: what it names is theirs to find
        else:
            return
    if refused:
        raise refused
