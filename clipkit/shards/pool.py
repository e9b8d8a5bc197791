"""One function over many things in several processes: results in order, a worker's death among them."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from clipkit.processes import deaf_to_interrupts, end_with_parent

Thing = TypeVar("Thing")
Result = TypeVar("Result")

_AHEAD = 3  # things given out for each worker, so that none waits


class Died:
    """In place of a result: the worker died of this thing, also when that had a worker of its own."""


def mapped(
    function: Callable[[Thing], Result], things: Iterable[Thing], workers: int, method: str = "forkserver"
) -> Iterator[tuple[Thing, Result | Died]]:
    """Yield each thing with `function` of it, in order; with no `workers`, made in this process.

    `method` is how multiprocessing starts workers. They ignore Ctrl-C, and end when this process dies or
    stops before all is made: what they are at may take long. Raises what `function` raises.
    """
    if not workers:
        yield from ((thing, function(thing)) for thing in things)
        return
    pool = _Pool(function, workers, method)
    try:
        for thing in things:
            pool.give(thing)
            if len(pool.given) >= _AHEAD * workers:
                yield pool.take()
        while pool.given:
            yield pool.take()
    except BaseException:
        for worker in pool.processes.intersection(multiprocessing.active_children()):
            worker.terminate()
        raise
    finally:
        pool.executor.shutdown(cancel_futures=True)


class _Pool(Generic[Thing, Result]):
    def __init__(self, function: Callable[[Thing], Result], workers: int, method: str):
        self._function = function
        self._workers = workers
        self._method = method
        self.executor = _executor(function, workers, method)
        self.given: deque[tuple[Thing, Future[Result]]] = deque()
        self.processes: set[BaseProcess] = set()

    def give(self, thing: Thing) -> None:
        try:
            future = self._submitted(self.executor, thing)
        except BrokenProcessPool:
            self.executor.shutdown()
            self.executor = _executor(self._function, self._workers, self._method)
            future = self._submitted(self.executor, thing)
        self.given.append((thing, future))

    def take(self) -> tuple[Thing, Result | Died]:
        thing, future = self.given.popleft()
        try:
            return thing, future.result()
        except BrokenProcessPool:
            return thing, self._alone(thing)

    def _alone(self, thing: Thing) -> Result | Died:
        # Who died of what cannot be told where several were at work: each is tried once more by itself.
        with _executor(self._function, 1, self._method) as executor:
            future = self._submitted(executor, thing)
            try:
                return future.result()
            except BrokenProcessPool:
                return Died()

    def _submitted(self, executor: ProcessPoolExecutor, thing: Thing) -> Future[Result]:
        with deaf_to_interrupts():  # it may start a process
            try:
                return executor.submit(self._function, thing)
            finally:
                # The executor's own: other threads begin processes meanwhile.
                self.processes.update((executor._processes or {}).values())


def _executor(function: Callable[[Thing], Result], workers: int, method: str) -> ProcessPoolExecutor:
    # Forked from a server that has imported what they need; not from this process, which may have threads.
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([getattr(function, "func", function).__module__])
    return ProcessPoolExecutor(workers, context, end_with_parent)
