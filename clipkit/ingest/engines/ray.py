"""Ray: the cluster that RAY_ADDRESS names or `ray start` began here, else one for this run alone."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from clipkit.ingest.engines.cluster import Answer, Task, gone, map_chunks, unfit
from clipkit.ingest.engines.connections import ray_connected
from clipkit.ingest.engines.engine import Outcomes
from clipkit.ingest.engines.extras import extra
from clipkit.ingest.rows import Chunk
from clipkit.ingest.worker import PartMaker


def on_ray(make_part: PartMaker, chunks: Iterator[Chunk], workers: int, window: int) -> Outcomes:
    """Run `workers` tasks of one CPU at once (an Engine)."""
    ray = extra("ray", "ray")
    with ray_connected(ray, workers):
        yield from map_chunks(_Ray(ray, Task.of(make_part)), chunks, workers, window, make_part.tried_first)


class _Ray:
    def __init__(self, ray: Any, task: Task):
        self._ray = ray
        self._task = ray.put(task)
        self._run = ray.remote(num_cpus=1, max_retries=0)(_run)  # Ray's own tries have no end after an OOM
        self._node = ray.get_runtime_context().get_node_id()

    def submit(self, chunk: Chunk) -> Future[Answer]:
        return self._run.remote(self._task, chunk).future()  # type: ignore[no-any-return]

    def cause(self, error: BaseException) -> str:
        if isinstance(error, self._ray.exceptions.RayTaskError):
            raise unfit("ray", error)
        if isinstance(error, self._ray.exceptions.LocalRayletDiedError):
            raise gone("ray")
        self.has_nodes()
        return str(error).split(". ")[0] or type(error).__name__

    def has_nodes(self) -> bool:
        # Ray itself notices the end of its process only after seconds, and then may end this one too.
        here = self._ray._private.worker._global_node
        dead = {kind for kind, _ in here.dead_processes()} if here else set()
        is_dead = not dead.isdisjoint({"raylet", "gcs_server"})
        nodes = [] if is_dead else [node for node in self._ray.nodes() if node["Alive"]]
        if not any(node["NodeID"] == self._node for node in nodes):
            raise gone("ray")
        return any(node["Resources"].get("CPU", 0) >= 1 for node in nodes)

    def stop(self, underway: Iterable[Any]) -> None:
        for future in underway:
            self._ray.cancel(future.object_ref, force=True)


def _run(task: Task, chunk: Chunk) -> Answer:
    return task(chunk)
