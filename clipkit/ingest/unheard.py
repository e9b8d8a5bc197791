"""Requests of which nothing is heard: most never get an answer, and others need not wait for their ends."""

import resource
from collections.abc import Iterable

from clipkit.processes import allow_files

_SECONDS = 1.0  # without an answer
_TIMES = 3  # as many as there may be connections
_OTHER_FILES = 256  # beside a connection's socket and its name's look-up


def allow_connections(connections: int) -> int | None:
    """Let this process open the files of so many; return how many these are if it may not, else None."""
    allow_files(_files((1 + _TIMES) * connections))
    return None if allow_files(_files(connections)) else _files(connections)


class Unheard:
    """How many requests do not count as one of the `connections`: as far as there are files for them."""

    def __init__(self, connections: int):
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = soft if soft != resource.RLIM_INFINITY else _files((1 + _TIMES) * connections)
        self._most = max(0, min(_TIMES * connections, (files - _files(connections)) // 2))
        self.count = 0

    def note(self, begun: Iterable[float], now: float) -> None:
        """Take note of the requests without an answer, by when they began."""
        self.count = min(self._most, sum(now - each > _SECONDS for each in begun))


def _files(connections: int) -> int:
    return 2 * connections + _OTHER_FILES
