"""Which hosts are busy and which asked us to wait, and the rows that are held back for them."""

from collections import defaultdict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Hosts(Generic[T]):
    """At most `share` connections to one host, and none while it is paused."""

    def __init__(self, share: int):
        self._share = share
        self._busy: defaultdict[str, int] = defaultdict(int)
        self._behind: defaultdict[str, deque[T]] = defaultdict(deque)
        self._paused: dict[str, float] = {}
        self._refusing: dict[str, float] = {}

    def enter(self, host: str, item: T, *, first: bool = False) -> bool:
        """Take a connection to the host; if it has its share, keep `item` until `leave` returns it.

        One that is to be `first` is returned before all that are kept.
        """
        if self._busy[host] < self._share:
            self._busy[host] += 1
            return True
        if first:
            self._behind[host].appendleft(item)
        else:
            self._behind[host].append(item)
        return False

    def leave(self, host: str) -> T | None:
        """Give a connection back; returns what may now try to enter."""
        self._busy[host] -= 1
        return self.following(host)

    def following(self, host: str) -> T | None:
        """Return what may try to enter instead of one that was returned earlier and no longer wants to."""
        if self._behind[host]:
            return self._behind[host].popleft()
        del self._behind[host]
        if not self._busy[host]:
            del self._busy[host]
        return None

    def busiest(self) -> str | None:
        """Return the host that most is kept behind, None if nothing is."""
        return max(self._behind, key=lambda host: len(self._behind[host]), default=None)

    def pause(self, host: str, until: float, now: float) -> list[T]:
        """Let nothing enter before `until` (monotonic seconds); returns what was kept behind the host."""
        self._paused[host] = max(until, self._paused.get(host, 0.0))
        self._refusing.setdefault(host, now)
        return list(self._behind.pop(host, ()))

    def paused_until(self, host: str, now: float) -> float | None:
        """Return when the host's pause ends, None if it is not paused."""
        until = self._paused.get(host)
        if until is not None and until <= now:
            del self._paused[host]
            return None
        return until

    def answered(self, host: str) -> None:
        """Take note that the host did something else than ask for a pause."""
        self._refusing.pop(host, None)

    def refusing_since(self, host: str) -> float | None:
        """Return since when the host does nothing but ask for pauses, None if it does not."""
        return self._refusing.get(host)
