"""Ray: the cluster that RAY_ADDRESS names or `ray start` began here, else one for this run alone."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from clipkit.errors import EngineError
from clipkit.ingest.engines.cluster import Answer, Task, knock, map_chunks, unfit
from clipkit.ingest.engines.engine import Outcomes
from clipkit.ingest.engines.extras import extra
from clipkit.ingest.rows import Chunk
from clipkit.ingest.worker import PartMaker
from clipkit.processes import own_signals

_STORE_BYTES = 128 << 20  # the least that Ray is content with is far more than what lies in it


def on_ray(make_part: PartMaker, chunks: Iterator[Chunk], workers: int, window: int) -> Outcomes:
    """Run `workers` tasks of one CPU at once (an Engine)."""
    ray = extra("ray", "ray")
    with _connected(ray, workers):
        cluster = _Ray(ray, Task.of(make_part))
        try:
            yield from map_chunks(cluster, chunks, workers, window)
        finally:
            cluster.stop()


@contextmanager
def _connected(ray: Any, workers: int) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    own = {"num_cpus": workers, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    try:
        with own_signals():
            ray.init(**quiet) if _is_there(ray) else ray.init(address="local", **own, **quiet)
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


def _is_there(ray: Any) -> bool:
    """Tell whether there is a cluster. Raises OSError if it does not answer."""
    address = os.environ.get("RAY_ADDRESS") or ray._private.services.canonicalize_bootstrap_address(None)
    if address in (None, "local"):
        return False
    knock(address)
    return True


class _Ray:
    def __init__(self, ray: Any, task: Task):
        self._ray = ray
        self._task = ray.put(task)
        self._run = ray.remote(num_cpus=1, max_retries=0)(_run)  # Ray's own tries have no end after an OOM
        self._node = ray.get_runtime_context().get_node_id()
        self._underway: dict[Future[Answer], Any] = {}

    def submit(self, chunk: Chunk) -> Future[Answer]:
        reference = self._run.remote(self._task, chunk)
        future: Future[Answer] = reference.future()
        self._underway[future] = reference
        future.add_done_callback(lambda ended: self._underway.pop(ended, None))
        return future

    def cause(self, error: BaseException) -> str:
        if isinstance(error, self._ray.exceptions.RayTaskError):
            raise unfit("ray", error)
        if isinstance(error, self._ray.exceptions.LocalRayletDiedError):
            raise _gone()
        self.has_nodes()
        return str(error).split(". ")[0] or type(error).__name__

    def has_nodes(self) -> bool:
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        if not any(node["NodeID"] == self._node for node in nodes):
            raise _gone()
        return any(node["Resources"].get("CPU", 0) >= 1 for node in nodes)

    def stop(self) -> None:
        for reference in list(self._underway.values()):
            self._ray.cancel(reference, force=True)


def _run(task: Task, chunk: Chunk) -> Answer:
    return task(chunk)


def _gone() -> EngineError:
    return EngineError(
        "--engine ray: Ray's own process on this machine is gone; what was finished is kept: run the same "
        "command again"
    )
