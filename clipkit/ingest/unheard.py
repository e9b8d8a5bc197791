"""Requests of which nothing is heard: most never get an answer, and others need not wait for their ends."""

import resource
from collections.abc import Iterable

from clipkit.errors import ConfigError
from clipkit.processes import allow_files

_SECONDS = 1.0  # without an answer
_TIMES = 3  # as many as there may be connections
_OTHER_FILES = 256  # beside a connection's socket and its name's look-up


def allow_connections(connections: int) -> None:
    """Let this process open the files of so many. Raises ConfigError if it may not."""
    allow_files(_files((1 + _TIMES) * connections))
    if allow_files(_files(connections)):
        return
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    possible = (allowed - _OTHER_FILES) // 2
    fewer = f", or give --connections {possible}" if possible > 0 else ""
    raise ConfigError(
        f"--connections {connections} needs {_files(connections):,} open files a worker, found that "
        f"{allowed:,} are allowed: raise that (ulimit -Hn){fewer}"
    )


class Unheard:
    """How many requests do not count as one of the `connections`: as far as there are files for them."""

    def __init__(self, connections: int):
        self._connections = connections
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = soft if soft != resource.RLIM_INFINITY else _files((1 + _TIMES) * connections)
        self._most = max(0, min(_TIMES * connections, (files - _files(connections)) // 2))
        self.count = 0

    def note(self, asked: Iterable[float], pending: Iterable[float], now: float) -> None:
        """Take note of when those began that have no answer, and those that have not begun."""
        # A name's look-up goes on when its URL has long failed: not too many of them.
        waiting = min(self._connections, sum(now - each > _SECONDS for each in pending))
        self.count = min(self._most, waiting + sum(now - each > _SECONDS for each in asked))


def _files(connections: int) -> int:
    return 2 * connections + _OTHER_FILES
