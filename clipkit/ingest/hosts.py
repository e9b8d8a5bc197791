"""Which hosts are busy and which asked us to wait, and the rows that are held back for them."""

import itertools
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from clipkit.ingest.rows import Failed

T = TypeVar("T")

_FORGOTTEN_SECONDS = 60.0  # after a pause
_LOOKED_AT = 2  # of the hosts paused longest ago, whenever another one is: so those kept do not add up


@dataclass(slots=True)
class _Asked:
    """A host that asked for a pause, `until` then; since `since` it answered otherwise `answers` times."""

    connections: float  # that it gets
    since: float
    answers: int = 0
    until: float = 0.0

    def is_getting_on(self, now: float) -> bool:
        return self.answers >= now - self.since


def asks_for_a_pause(outcome: Failed | bytes, retry_after: float | None) -> bool:
    """Tell whether a host, with a Retry-After of so many seconds or none, wants to be left alone."""
    status = outcome.http_status if isinstance(outcome, Failed) else None
    return status == 429 or (status == 503 and retry_after is not None)


class Hosts(Generic[T]):
    """At most `share` connections to one host, and none while it is paused.

    One that asks for a pause gets a quarter of those that it had, and for each round of other answers one
    more: at its full share it would soon ask again, and refuse most of what it is asked for.
    """

    def __init__(self, share: int):
        self._share = share
        self._busy: defaultdict[str, int] = defaultdict(int)
        self._behind: defaultdict[str, deque[T]] = defaultdict(deque)
        self._asked: dict[str, _Asked] = {}

    def enter(self, host: str, item: T, *, first: bool = False) -> bool:
        """Take a connection to the host; if it has its share, keep `item` until `leave` returns it.

        One that is to be `first` is returned before all that are kept.
        """
        if self._busy[host] < self.connections(host):
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

    def is_slowed(self, host: str) -> bool:
        """Tell whether the host gets less than its share, having asked for a pause."""
        return self.connections(host) < self._share

    def pause(self, host: str, until: float, now: float) -> list[T]:
        """Let nothing enter before `until` (monotonic seconds); returns what was kept behind the host."""
        asked = self._asked.pop(host, None)
        if asked is None:
            self._forget_some(now)
            asked = _Asked(self._share, now)
        self._asked[host] = asked  # the last now
        if asked.until <= now:  # else it was asked for together with this
            if asked.is_getting_on(now) or now - asked.until > _FORGOTTEN_SECONDS:
                asked.since, asked.answers = now, 0
            asked.connections = max(1.0, min(self._busy.get(host, 0) + 1, asked.connections) / 4)
        asked.until = max(until, asked.until)
        return list(self._behind.pop(host, ()))

    def answered(self, host: str) -> T | None:
        """Take note that the host did not ask for a pause; returns what may now try to enter."""
        asked = self._asked.get(host)
        if asked is None:
            return None
        asked.answers += 1
        before = int(asked.connections)
        asked.connections = min(self._share, asked.connections + 1 / asked.connections)
        return self.following(host) if int(asked.connections) > before else None

    def paused_until(self, host: str, now: float) -> float | None:
        """Return when the host's pause ends, None if it is not paused."""
        asked = self._asked.get(host)
        return asked.until if asked and asked.until > now else None

    def worth_waiting_until(self, host: str, now: float, seconds: float) -> float:
        """Return until when what was not tried yet is to wait for the host: `seconds` from its first pause,
        and on for as long as it gives an answer a second on the whole.
        """
        asked = self._asked.get(host)
        return (now if asked is None or asked.is_getting_on(now) else asked.since) + seconds

    def _forget_some(self, now: float) -> None:
        for host in list(itertools.islice(self._asked, _LOOKED_AT)):
            asked = self._asked.pop(host)
            if host in self._busy or now - asked.until <= _FORGOTTEN_SECONDS:
                self._asked[host] = asked

    def connections(self, host: str) -> int:
        """Return how many connections the host gets now."""
        asked = self._asked.get(host)
        return int(asked.connections) if asked else self._share
