"""Rows in, bodies or reasons out, as `fetch`; each request is made by img2dataset.

Its `download_image` is called in threads: what it returns are the bytes as served, before its own resizing
and encoding, which would drop or change what OpenCV does not read. So the network rules are its own:
urllib's, with a browser's User-Agent that also names clipkit, X-Robots-Tag as it reads it, redirects also to
ftp, a proxy from the environment; no check of addresses, no limit on connections to one host, none on the
size of a body before all of it has come. What is ours: only http and https are requested, failures that may
pass are tried again, and a URL that has not ended at its deadline has failed, though its thread may go on.
"""

import itertools
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic

from clipkit import scratch
from clipkit.errors import EngineError, install_extra
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.img2dataset_words import reason_of
from clipkit.ingest.incoming import Incoming, Key
from clipkit.ingest.rows import Failed, Fetched, Limit, UrlRow
from clipkit.ingest.tar_rows import RowReader
from clipkit.ingest.urls import Target, request_target

USER_AGENT_TOKEN = "clipkit"  # noqa: S105 (no secret)
OPTED_OUT = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
"""What img2dataset itself heeds unless told otherwise."""

Download = Callable[[str, float], tuple[bytes | None, str]]
"""(URL, seconds for a stall) → its body, or None and why in words."""


def fetch(
    rows: Iterable[tuple[Key, UrlRow] | None],
    config: IngestConfig,
    *,
    limited_by: Callable[[str, Limit], None] = lambda host, limit: None,
    download: Download | None = None,
) -> Iterator[tuple[Key, Fetched | Failed] | None]:
    """Request the rows' URLs, or read their files, as `clipkit.ingest.fetch.fetch` does; no host is limited.

    Raises EngineError if img2dataset cannot be imported.
    """
    return _Requests(rows, config, download or _downloader(config)).outcomes()


def _downloader(config: IngestConfig) -> Download:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else importing it asks a server for its newest version
    try:
        # Its other imports leave folders behind in a process that is killed, as workers are.
        with scratch.folder() as place:
            before, tempfile.tempdir = tempfile.tempdir, str(place)
            try:
                from img2dataset.downloader import download_image
            finally:
                tempfile.tempdir = before
    except Exception as error:  # whatever a version of one of its many packages comes up with
        raise EngineError(
            f"--engine img2dataset: expected the extra to load, found {type(error).__name__}: {error}; "
            f"{install_extra('img2dataset')}, into an environment of its own"
        ) from None

    heeded = frozenset() if config.ignore_robots_tag else OPTED_OUT

    def download(url: str, timeout: float) -> tuple[bytes | None, str]:
        _, stream, words = download_image((0, url), timeout, USER_AGENT_TOKEN, heeded)
        return (None, words) if stream is None else (stream.getvalue(), "")

    return download


class _Requests(Generic[Key]):
    """A thread a URL, so that one that never ends keeps no other from its turn."""

    def __init__(self, rows: Iterable[tuple[Key, UrlRow] | None], config: IngestConfig, download: Download):
        self._rows = Incoming(rows)
        self._config = config
        self._download = download
        self._files = RowReader()
        self._numbers = itertools.count()
        self._underway: dict[int, tuple[Key, float]] = {}  # with its deadline; the oldest first
        self._ended: queue.SimpleQueue[tuple[int, Fetched | Failed]] = queue.SimpleQueue()

    def outcomes(self) -> Iterator[tuple[Key, Fetched | Failed] | None]:
        while True:
            self._start_what_may()
            if self._rows.exhausted and not self._underway:
                return
            yield self._next()

    def _next(self) -> tuple[Key, Fetched | Failed] | None:
        if overdue := self._overdue():
            return overdue
        try:
            number, outcome = self._ended.get(timeout=self._rows.patience())
        except queue.Empty:
            return None
        key, _ = self._underway.pop(number, (None, 0.0))
        return None if key is None else (key, outcome)

    def _overdue(self) -> tuple[Key, Failed] | None:
        number, (key, deadline) = next(iter(self._underway.items()), (0, (None, 0.0)))
        if key is None or deadline > time.monotonic():
            return None
        del self._underway[number]
        return key, Failed("timeout", f"not ended after {self._config.deadline:g} s", attempts=1)

    def _start_what_may(self) -> None:
        while len(self._underway) < self._config.connections and (following := self._rows.next()):
            self._start(*following)

    def _start(self, key: Key, row: UrlRow) -> None:
        number, deadline = next(self._numbers), time.monotonic() + self._config.deadline
        self._underway[number] = key, deadline
        if row.file is not None and not row.problem:
            self._ended.put((number, self._files.read(row, self._config.max_bytes)))
            return
        target = Failed(row.reason, row.problem) if row.problem else request_target(row.url)
        if isinstance(target, Target):
            request = (number, target.url, deadline)
            threading.Thread(target=self._request, args=request, daemon=True).start()
        else:
            self._ended.put((number, target))

    def _request(self, number: int, url: str, deadline: float) -> None:
        for attempt in itertools.count(1):
            outcome = self._once(url, attempt)
            due = time.monotonic() + self._config.backoff * 2 ** (attempt - 1)
            again = isinstance(outcome, Failed) and outcome.retryable and attempt <= self._config.retries
            if not again or due >= deadline:
                self._ended.put((number, outcome))
                return
            time.sleep(max(0.0, due - time.monotonic()))

    def _once(self, url: str, attempt: int) -> Fetched | Failed:
        data, words = self._download(url, self._config.timeout)
        if data is None:
            reason, status = reason_of(words)
            return Failed(reason, " ".join(words.split())[:200] or "no words", status, attempt)
        if len(data) > self._config.max_bytes:
            return Failed("too_large", f"more than {self._config.max_bytes} bytes", None, attempt)
        return Fetched(data, None, attempt)
