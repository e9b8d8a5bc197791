import time
from http.server import BaseHTTPRequestHandler
from itertools import pairwise

import pytest

from clipkit import clock
from clipkit.clock import Clock
from clipkit.ingest.fetch import fetch
from clipkit.ingest.rows import Fetched, UrlRow
from tests.ingest.test_fetch import CONFIG
from tests.serving import Server, answer


def test_time_goes_on_but_for_standstills() -> None:
    times = iter([100.0, 101.0, 105.5, 165.5, 166.5, 900.0, 900.5])
    read = Clock(lambda: next(times))
    seen = [read.now() for _ in range(6)]
    assert [after - before for before, after in pairwise(seen)] == [4.5, 0, 1, 0, 0.5]


def test_a_url_survives_that_its_process_was_stopped(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_STANDSTILL_SECONDS", 0.7)

    def silent_at_first(request: BaseHTTPRequestHandler) -> None:
        (server.silence if server.hits["/"] == 1 else answer(b"here"))(request)

    rows = [(0, UrlRow("list", 0, server.add("/", silent_at_first), ""))]
    ended = fetch(rows, CONFIG.model_copy(update={"deadline": 1.0}))
    while not server.hits["/"]:
        assert next(ended) is None
    time.sleep(1.2)  # as good as SIGSTOP
    assert list(filter(None, ended)) == [(0, Fetched(b"here", 200, 2))]
