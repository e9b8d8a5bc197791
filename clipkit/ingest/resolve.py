"""Why a name did not resolve: libcurl does not tell an unknown name from a resolver that is down."""

import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

_KEPT = 4096  # answers: a list of a billion URLs has names without number

Resolve = Callable[[str], list[str]]
"""Return a host's addresses; raises socket.gaierror. A parameter, so that tests need no name server."""

_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


def system_resolve(host: str) -> list[str]:
    """Return the addresses of `host` as the system looks them up."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class Diagnosis:
    """Asks the resolver again, in threads, why names failed; each name once while it is kept."""

    def __init__(self, resolve: Resolve = system_resolve):
        self._resolve = resolve
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="resolve")
        self._answers: dict[str, Future[str]] = {}

    def of(self, host: str) -> Future[str]:
        """Return the reason to come: `dns_not_found` (no such name) or `dns_failed` (may pass)."""
        answer = self._answers.get(host)
        if answer is None or (answer.done() and answer.result() == "dns_failed"):
            answer = self._answers[host] = self._threads.submit(self._ask, host)
            if len(self._answers) > _KEPT:
                del self._answers[next(iter(self._answers))]
        return answer

    def close(self) -> None:
        """Drop the questions not yet asked."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, host: str) -> str:
        try:
            self._resolve(host)
        except socket.gaierror as error:
            return "dns_not_found" if error.errno in _NO_SUCH_NAME else "dns_failed"
        except UnicodeError:  # an empty label, say, or one that is too long
            return "dns_not_found"
        except OSError:
            return "dns_failed"
        return "dns_failed"
