"""Shards copied into the cache before they are read, by threads that keep no process from ending."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from queue import Empty, SimpleQueue

_THREADS = 8
_REMEMBERED = 400


class Filling:
    """Calls `fill` with each shard wanted, some at a time, the first wanted first; `stop` ends its threads.

    They are daemons: those of a pool would be waited for at the process's end, with all that is wanted yet.
    """

    def __init__(self, fill: Callable[[int], None]):
        self._wanted: SimpleQueue[int | None] = SimpleQueue()
        self._known: OrderedDict[int, None] = OrderedDict()
        for _ in range(_THREADS):
            threading.Thread(target=_work, args=(self._wanted, fill), name="fill", daemon=True).start()

    def want(self, shard: int) -> None:
        """Have the shard copied, unless it was wanted a short time ago."""
        if shard in self._known:
            return
        self._known[shard] = None
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        self._wanted.put(shard)

    def stop(self) -> None:
        """Forget what has not begun; let the threads end, without waiting for them."""
        try:
            while True:
                self._wanted.get_nowait()
        except Empty:
            pass
        for _ in range(_THREADS):
            self._wanted.put(None)


def _work(wanted: "SimpleQueue[int | None]", fill: Callable[[int], None]) -> None:
    while (shard := wanted.get()) is not None:
        try:
            fill(shard)
        except Exception:  # noqa: S112 (who then reads the shard meets the same, and tells)
            continue
