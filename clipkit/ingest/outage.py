"""A network that goes away in the middle of a run: nothing is asked until it is back.

Else each URL whose turn comes in that time would fail, thousands a second.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future

from clipkit.errors import NetworkError
from clipkit.ingest.rows import Failed
from clipkit.ingest.urls import Target
from clipkit.threads import in_thread

_IN_A_ROW = 50  # requests that got nothing from anybody
_QUIET_SECONDS = 1.0  # without any answer
_KNOWN_HOSTS = 4
_BETWEEN_NOTES = 1.0
_BETWEEN_DOUBTS = 1.0
_BETWEEN_PROBES = 5.0
LONGEST_SECONDS = 3600.0
_SIGNS = ("connect", "dns_failed", "dns_not_found", "timeout")  # some resolvers say that no name exists
_CUT_OFF = ("reset", "too_slow", "truncated")


def is_unheard(failed: Failed) -> bool:
    """Tell whether nothing came, as without a network."""
    return failed.http_status is None and failed.reason in _SIGNS


def may_be_cut_off(failed: Failed) -> bool:
    """Tell whether a URL may have failed because the network went, on its way perhaps."""
    return failed.reason in _SIGNS or failed.reason in _CUT_OFF


class Outage:
    """Tells whether the network has gone; of real time, not of a URL's.

    It has, if many requests in a row got nothing and if none of the hosts that answered last can be
    connected to any more, which `is_reachable` finds out. Until then it is in doubt. A network of which
    nothing was ever heard has not gone: whether there is one at all is the pre-flight's business.
    """

    def __init__(self, is_reachable: Callable[[Target], bool]):
        self._is_reachable = is_reachable
        self._known: dict[str, Target] = {}  # the last one to answer last
        self._noted = self._due = self._answered = float("-inf")
        self._unheard = 0
        self._unheard_since = self._doubted_since = 0.0
        self._probe: Future[bool] | None = None
        self._since: float | None = None
        self._may_try = False

    @property
    def is_sure(self) -> bool:
        """Whether the network is known to have gone, not only being looked at."""
        return self._since is not None

    @property
    def is_in_doubt(self) -> bool:
        """Whether the network may have gone, or is known to have."""
        return self._unheard >= _IN_A_ROW and bool(self._known)

    @property
    def last_host(self) -> str:
        """The host that answered last, as far as was noted."""
        return next(reversed(self._known), "")

    def heard(self, target: Target, asked: float) -> None:
        """Take note of an answer to what was asked then; one from before says nothing of the network now."""
        now = self._answered = time.monotonic()
        if asked > (self._doubted_since if self._unheard >= _IN_A_ROW else self._unheard_since):
            self._unheard, self._since, self._probe = 0, None, None  # what that one finds is out of date
        if now - self._noted >= _BETWEEN_NOTES:
            self._noted = now
            self._known.pop(target.host, None)
            self._known[target.host] = target
            if len(self._known) > _KNOWN_HOSTS:
                del self._known[next(iter(self._known))]

    def unheard(self) -> None:
        """Take note of a request that got nothing."""
        if not self._unheard:
            self._unheard_since = time.monotonic()
        self._unheard += 1
        if self._unheard == _IN_A_ROW:
            self._doubted_since = time.monotonic()

    def is_on(self) -> bool:
        """Tell whether to ask for nothing now. Raises NetworkError when that has been so for too long."""
        if not self.is_in_doubt:
            return False
        now = time.monotonic()
        if self._probe is None:
            if now < self._due:
                return self.is_sure
            targets = list(reversed(self._known.values()))
            # What fails, or for want of threads cannot begin, tells nothing: as if they were there.
            self._probe = in_thread(lambda: any(map(self._is_reachable, targets)), True, "outage")
        if not self._probe.done():  # while what was asked earlier is answered, others may be asked, too
            return self.is_sure or now - self._answered >= _QUIET_SECONDS
        reached, self._probe = self._probe.result(), None
        self._due = now + (_BETWEEN_DOUBTS if reached else _BETWEEN_PROBES)
        if reached:
            self._unheard, self._since = 0, None
            return False
        self._since = self._since or now
        if now - self._since >= LONGEST_SECONDS:
            hosts = ", ".join(reversed(self._known))
            raise NetworkError(
                f"expected answers, found that nothing has given one for {LONGEST_SECONDS / 60:.0f} minutes, "
                f"nor do the hosts that did last ({hosts}) take a connection: has the network gone, or do "
                "they refuse this machine? What is done is kept: run the same command again"
            )
        self._may_try = True
        return True

    def may_try(self) -> bool:
        """Tell, once after each look at the known hosts, that one request may find out about others."""
        may, self._may_try = self._may_try, False
        return may
