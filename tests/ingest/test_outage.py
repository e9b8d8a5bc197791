import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from clipkit.errors import NetworkError
from clipkit.ingest import outage
from clipkit.ingest.fetch import fetch
from clipkit.ingest.rows import Failed, Fetched, Limit, UrlRow
from tests.ingest.losing_network import URLS
from tests.ingest.test_fetch import CONFIG
from tests.serving import Server, answer

NAMES = 400
HURRIED = CONFIG.model_copy(update={"connections": 8, "deadline": 6, "backoff": 1, "retries": 2})


class Resolver:
    """Every name is this machine's; after some of them it goes away for a while."""

    def __init__(self, error: int, seconds: float, known: tuple[str, ...] = ()):
        self.asked = 0
        self._error = error
        self._seconds = seconds
        self._known = known
        self._lock = threading.Lock()
        self._until = 0.0

    def __call__(self, host: str) -> list[str]:
        with self._lock:
            self.asked += 1
            if self.asked == 30:
                self._until = time.monotonic() + self._seconds
            if time.monotonic() < self._until and host not in self._known:
                raise socket.gaierror(self._error, "as the test says")
            return ["127.0.0.1"]


def rows(server: Server) -> list[tuple[int, UrlRow]]:
    port = server.add("/", answer(b"picture")).rpartition(":")[2]
    return [(n, UrlRow("list", n, f"http://name{n}.example:{port}", "")) for n in range(NAMES)]


def test_while_there_is_no_network_no_url_fails(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "_BETWEEN_PROBES", 0.2)
    limits: set[Limit] = set()
    resolver = Resolver(socket.EAI_AGAIN, seconds=7)  # longer than any deadline
    ended = dict(filter(None, fetch(rows(server), HURRIED, resolver, lambda host, limit: limits.add(limit))))
    failed = [each for each in ended.values() if isinstance(each, Failed)]
    assert limits == {"network"}
    assert len(ended) == NAMES
    assert not failed
    assert resolver.asked < 3 * NAMES


def test_none_fails_while_answers_to_earlier_requests_still_come(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor before anybody can know: all tries of a name take half a second here."""
    monkeypatch.setattr(outage, "_BETWEEN_PROBES", 0.2)

    def late(request: BaseHTTPRequestHandler) -> None:
        server.stopping.wait(3)
        answer(b"picture")(request)

    port = server.add("/late", late).rpartition(":")[2].split("/")[0]
    listed = [
        (n, row._replace(url=f"http://name{n}.example:{port}/late") if n in range(5, 30, 6) else row)
        for n, row in rows(server)
    ]
    config = HURRIED.model_copy(update={"backoff": 0.2, "timeout": 5})
    ended = dict(filter(None, fetch(listed, config, Resolver(socket.EAI_AGAIN, seconds=5))))
    assert [each for each in ended.values() if isinstance(each, Failed)] == []
    assert len(ended) == NAMES


def test_a_network_that_does_not_come_back_ends_the_run(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "_BETWEEN_PROBES", 0.1)
    monkeypatch.setattr(outage, "LONGEST_SECONDS", 1.0)
    ended: list[tuple[int, Fetched | Failed]] = []
    with pytest.raises(NetworkError, match=r"nothing has given one .* \(name.*run the same command again"):
        ended += filter(None, fetch(rows(server), HURRIED, Resolver(socket.EAI_AGAIN, seconds=60)))
    assert all(isinstance(outcome, Fetched) for _, outcome in ended)
    assert len(ended) < 60


def test_many_dead_hosts_are_no_outage_while_others_that_answered_are_there(server: Server) -> None:
    listed = rows(server)
    resolver = Resolver(socket.EAI_AGAIN, seconds=60, known=tuple(f"name{n}.example" for n in range(30)))
    ended = dict(filter(None, fetch(listed, HURRIED, resolver)))
    assert sum(isinstance(outcome, Failed) for outcome in ended.values()) > NAMES - 60


def test_a_host_that_answers_again_ends_an_outage(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although none of those that had answered does."""
    monkeypatch.setattr(outage, "_BETWEEN_PROBES", 0.1)
    later = tuple(f"name{n}.example" for n in range(200, NAMES))
    ended = dict(filter(None, fetch(rows(server), HURRIED, Resolver(socket.EAI_AGAIN, 12, known=later))))
    assert len(ended) == NAMES


def test_an_ingest_waits_for_a_network_that_is_gone_for_a_while(tmp_path: Path) -> None:
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    unshare = ["unshare", *rights, "--net"]
    try:
        possible = subprocess.run([*unshare, "ip", "link"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if possible.returncode:
        pytest.skip(f"no namespace of its own, or no ip, here: {possible.stderr.strip()}")
    command = [*unshare, sys.executable, "-m", "tests.ingest.losing_network", str(tmp_path), "12"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "nothing answers any more, nor can 127.0.0.1 be connected to" in finished.stderr
    assert json.loads(finished.stdout)["samples"] == URLS, finished.stdout
