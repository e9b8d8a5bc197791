"""The addresses of hosts, looked up by threads of our own, and why there are none.

libcurl from 8.20 on looks names up in at most twenty threads: as many names whose servers are silent would
keep all others waiting until they fail. Nor does it tell an unknown name from a resolver that is down.
"""

import socket
from collections.abc import Callable
from concurrent.futures import Future

from clipkit.threads import in_thread

_KEPT = 4096  # answers: a list of a billion URLs has names without number
_SECONDS = 600.0  # that an answer is kept

Resolve = Callable[[str], list[str]]
"""Return a host's addresses; raises socket.gaierror. A parameter, so that tests need no name server."""

Answer = list[str] | str
"""A host's addresses, or the reason for none: `dns_not_found` (no such name) or `dns_failed` (may pass)."""

_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


def system_resolve(host: str) -> list[str]:
    """Return the addresses of `host` as the system looks them up."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class Names:
    """Asks for names, each in a thread, which lasts as long as the system takes; answers are kept a while."""

    def __init__(self, resolve: Resolve = system_resolve):
        self._resolve = resolve
        self._answers: dict[str, tuple[Future[Answer], float]] = {}

    def of(self, host: str, now: float) -> "Future[Answer]":
        """Return the answer to come. `now` is in monotonic seconds."""
        answer, asked = self._answers.get(host, (None, now))
        if answer and not (answer.done() and (answer.result() == "dns_failed" or now - asked > _SECONDS)):
            return answer
        answer = in_thread(lambda: self._asked(host), "dns_failed", "resolve")
        self._answers[host] = answer, now
        if len(self._answers) > _KEPT:
            del self._answers[next(iter(self._answers))]
        return answer

    def _asked(self, host: str) -> Answer:
        try:
            return self._resolve(host) or "dns_not_found"
        except UnicodeError:  # an empty label, say, or one that is too long
            return "dns_not_found"
        except OSError as error:
            known = isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME
            return "dns_not_found" if known else "dns_failed"
