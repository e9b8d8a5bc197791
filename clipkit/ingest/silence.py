"""Hosts that give no answer at all while others do: waiting for each of their URLs holds up the others."""

from dataclasses import dataclass

_UNANSWERED = 4  # requests in a row
_ROUNDS = 3  # of timeouts, for a host that never answered: four requests at once tell of one moment
_KEPT = 4096  # hosts: a list of a billion URLs has hosts without number


@dataclass(slots=True)
class _Host:
    has_answered: bool = False
    unanswered: int = 0  # requests since its last answer
    since: float = 0.0  # when the first of these began
    last: float = 0.0  # when one of these began or ended last


class Silence:
    """Tells which hosts are silent; times are monotonic seconds.

    A host is, of which _UNANSWERED requests in a row ended after `timeout` without an answer, if that has
    gone on for _ROUNDS times `timeout`; for one that had answered earlier, for `patience`. Requests do not
    count while no host answers: then it may be the network that is silent. Now and then a request finds out
    whether the host still is.
    """

    def __init__(self, timeout: float, patience: float):
        self._between = 2 * timeout  # answers, and two requests of a silent host
        self._patience = patience
        self._first_patience = min(_ROUNDS * timeout, patience)
        self._hosts: dict[str, _Host] = {}
        self._heard = self._heard_since = float("-inf")  # of any host

    def answered(self, host: str, now: float) -> None:
        """Take note of an answer, whatever it was."""
        if now - self._heard > self._between:
            self._heard_since = now
        self._heard = now
        state = self._state(host)
        state.has_answered, state.unanswered = True, 0

    def asked(self, host: str, now: float) -> None:
        """Take note of a request that begins."""
        if state := self._hosts.get(host):
            state.last = now

    def unanswered(self, host: str, begun: float, now: float) -> None:
        """Take note of a request that ended without an answer."""
        if begun < self._heard_since or not self.is_heard(now):
            return
        state = self._state(host)
        if not state.unanswered:
            state.since = begun
        state.unanswered += 1
        state.last = now

    def is_heard(self, now: float) -> bool:
        """Tell whether some host answers: else it may be the network that is silent."""
        return now - self._heard <= self._between

    def has_answered(self, host: str) -> bool:
        """Tell whether the host is known to have answered."""
        state = self._hosts.get(host)
        return state is not None and state.has_answered

    def is_expected(self, host: str, now: float) -> bool:
        """Tell whether to expect no answer of the host now."""
        state = self._hosts.get(host)
        if state is None or state.unanswered < _UNANSWERED or now - state.last > self._between:
            return False
        return now - state.since > (self._patience if state.has_answered else self._first_patience)

    def _state(self, host: str) -> _Host:
        state = self._hosts.pop(host, None) or _Host()
        self._hosts[host] = state  # the last now
        if len(self._hosts) > _KEPT:
            del self._hosts[next(iter(self._hosts))]
        return state
