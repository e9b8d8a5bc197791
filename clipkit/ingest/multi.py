"""Many transfers at once: libcurl's multi interface driven by the system's own event notification."""

import selectors
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

import pycurl

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.transfer import Transfer
from clipkit.ingest.urls import Target

_EVENTS = {
    pycurl.POLL_IN: selectors.EVENT_READ,
    pycurl.POLL_OUT: selectors.EVENT_WRITE,
    pycurl.POLL_INOUT: selectors.EVENT_READ | selectors.EVENT_WRITE,
}


class Multi:
    """The transfers in flight of one worker; connections and DNS answers are kept between them.

    `connections_of` tells how many connections a host gets now.
    """

    def __init__(self, config: IngestConfig, connections_of: Callable[[str], int]):
        self._selector = selectors.DefaultSelector()
        self._watched: set[int] = set()
        self._timer: float | None = None
        self._transfers: dict[pycurl.Curl, Transfer] = {}
        self._connections_of = connections_of
        self._busy: Counter[str] = Counter()  # by host, after redirects, too
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, config.connections)
        if not config.proxy:  # to which all connections would count as its own
            # `has_room` knows those in use; with this, one that idles is closed before another is opened.
            self._multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, config.connections_per_host)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._transfers:
            self._multi.remove_handle(handle)
        self._multi.close()
        self._selector.close()

    def __len__(self) -> int:
        """Return how many transfers are in flight."""
        return len(self._transfers)

    def has_room(self, target: Target) -> bool:
        """Tell whether its host has fewer connections than it gets: redirects of many may lead to one.

        libcurl's own limit would let the others wait while their time runs, and hold for a proxy as a whole.
        """
        return self._busy[target.host] < self._connections_of(target.host)

    def add(self, transfer: Transfer) -> None:
        """Start a prepared transfer."""
        self._transfers[transfer.handle] = transfer
        self._busy[transfer.target.host] += 1
        self._multi.add_handle(transfer.handle)

    def poll(self, seconds: float) -> list[tuple[Transfer, int, str]]:
        """Move bytes for at most `seconds`, or until something ends.

        Returns the transfers that ended, each with libcurl's error code (0: success) and message.
        """
        if self._timer is not None:
            seconds = min(seconds, max(0.0, self._timer - time.monotonic()))
        for key, mask in self._selector.select(seconds):
            flags = (pycurl.CSELECT_IN if mask & selectors.EVENT_READ else 0) | (
                pycurl.CSELECT_OUT if mask & selectors.EVENT_WRITE else 0
            )
            self._multi.socket_action(key.fd, flags)
        if self._timer is not None and self._timer <= time.monotonic():
            self._timer = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        return self._ended()

    def _ended(self) -> list[tuple[Transfer, int, str]]:
        ended = []
        queued = 1
        while queued:
            queued, good, bad = self._multi.info_read()
            ended += [(handle, 0, "") for handle in good] + bad
        for handle, _, _ in ended:
            self._multi.remove_handle(handle)
            host = self._transfers[handle].target.host
            self._busy[host] -= 1
            if not self._busy[host]:
                del self._busy[host]
        return [(self._transfers.pop(handle), code, message) for handle, code, message in ended]

    def _watch(self, what: int, descriptor: int, multi: object, data: object) -> None:
        known = descriptor in self._watched
        if what == pycurl.POLL_REMOVE:
            if known:
                self._watched.remove(descriptor)
                self._selector.unregister(descriptor)
        elif known:
            self._selector.modify(descriptor, _EVENTS[what])
        else:
            self._watched.add(descriptor)
            self._selector.register(descriptor, _EVENTS[what])

    def _set_timer(self, milliseconds: int) -> None:
        self._timer = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000
