"""The time that a process could use: while it was stopped, no deadline comes nearer."""

import time
from collections.abc import Callable

_STANDSTILL_SECONDS = 5.0  # more than one picture takes


class Clock:
    """Monotonic seconds without those of a standstill: SIGSTOP, a suspended machine, a disk that hangs.

    Whoever reads it goes on doing so, several times a second. While it `is_stopped`, no time passes either.
    """

    def __init__(self, read: Callable[[], float] = time.monotonic):
        self._read = read
        self._seen = read()
        self._lost = 0.0
        self.is_stopped = False

    def now(self) -> float:
        """Return the time; it goes on from any number."""
        seen = self._read()
        if self.is_stopped or seen - self._seen > _STANDSTILL_SECONDS:
            self._lost += seen - self._seen
        self._seen = seen
        return seen - self._lost
