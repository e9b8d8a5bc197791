"""img2dataset's requests as ours: reasons for what urllib says of a real server, threads, deadlines, limits.

The package itself is run in tests/ingest/engines/test_img2dataset.py; here urllib, which it uses, is asked.
"""

import itertools
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.img2dataset_fetch import fetch
from clipkit.ingest.img2dataset_words import reason_of
from clipkit.ingest.rows import Failed, Fetched, UrlRow
from tests.serving import Server, answer, raw

CONFIG = IngestConfig(retries=2, backoff=0.01, timeout=1, deadline=30, max_bytes=1000, connections=4)


def with_urllib(url: str, timeout: float) -> tuple[bytes | None, str]:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return response.read(), ""
    except Exception as error:
        return None, str(error)


def outcomes(*rows: UrlRow, **settings: object) -> list[Fetched | Failed]:
    config = CONFIG.model_copy(update=settings)
    ended = dict(each for each in fetch(enumerate(rows), config, download=with_urllib) if each)
    assert len(ended) == len(rows)
    return [ended[number] for number in range(len(rows))]


def row(url: str) -> UrlRow:
    return UrlRow("list", 0, url, "")


def failed(url: str, **settings: object) -> Failed:
    (outcome,) = outcomes(row(url), **settings)
    assert isinstance(outcome, Failed)
    return outcome


def test_the_bytes_are_those_served(server: Server) -> None:
    body = bytes(range(256))
    good = server.add("/good", answer(body))
    away = server.add("/away", answer(b"", 302, {"Location": good}))
    spaced = server.add("/%C3%A4%20b", answer(body)).replace("%C3%A4%20", "ä ")
    assert outcomes(row(good), row(away), row(spaced)) == [Fetched(body, None, 1)] * 3


@pytest.mark.parametrize(
    ("status", "reason", "attempts"),
    [(404, "http_4xx", 1), (429, "rate_limited", 3), (503, "http_5xx", 3), (304, "redirects", 1)],
)
def test_statuses(server: Server, status: int, reason: str, attempts: int) -> None:
    outcome = failed(server.add("/", answer(b"", status)))
    assert (outcome.reason, outcome.http_status, outcome.attempts) == (reason, status, attempts)
    assert server.hits["/"] == attempts


def test_what_a_server_calls_its_status_decides_nothing(server: Server) -> None:
    url = server.add("/", raw(b"HTTP/1.1 404 timed out [SSL\r\nContent-Length: 0\r\n\r\n"))
    assert failed(url).reason == "http_4xx"


@pytest.mark.parametrize(
    ("answered", "reason", "attempts"),
    [
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", b"short"), "truncated", 3),
        (raw(), "reset", 3),
        (raw(b"no HTTP at all\r\n\r\n"), "protocol", 1),
        (answer(b"x" * 1001), "too_large", 1),
        (answer(b"", 302, {"Location": "file:///etc/passwd"}), "scheme", 1),
        (answer(b"", 302, {"Location": "/"}), "redirects", 1),
    ],
)
def test_answers(server: Server, answered: object, reason: str, attempts: int) -> None:
    outcome = failed(server.add("/", answered))  # type: ignore[arg-type]
    assert (outcome.reason, outcome.attempts) == (reason, attempts)
    assert outcome.detail


def test_connections(server: Server) -> None:
    assert failed("http://127.0.0.1:9/").reason == "connect"
    assert failed(server.url("/").replace("http:", "https:")).reason == "tls"
    assert failed(server.add("/", server.silence), retries=0).reason == "timeout"
    assert failed("http://nosuchhost.invalid/", retries=0).reason in ("dns_not_found", "dns_failed")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("<urlopen error [Errno -2] Name or service not known>", "dns_not_found"),
        ("<urlopen error [Errno -3] Temporary failure in name resolution>", "dns_failed"),
        ("<urlopen error _ssl.c:989: The handshake operation timed out>", "timeout"),
        ("The read operation timed out", "timeout"),
        ("<urlopen error [Errno 110] Connection timed out>", "timeout"),
        ("<urlopen error [Errno 101] Network is unreachable>", "connect"),
        ("[Errno 104] Connection reset by peer", "reset"),
        ("Use of image disallowed by X-Robots-Tag directive", "opted_out"),
        ("", "protocol"),
    ],
)
def test_words(words: str, reason: str) -> None:
    assert reason_of(words) == (reason, None)


def test_what_is_no_web_address_is_never_handed_over(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(b"bytes")
    rows = [
        row((tmp_path / "picture").as_uri()),
        row("ftp://127.0.0.1/x"),
        row("data:,x"),
        UrlRow("list", 0, "", "text", problem="no URL"),
        UrlRow("list", 0, "picture", "", file=str(tmp_path / "picture")),
    ]
    ended = outcomes(*rows)
    assert [each.reason for each in ended if isinstance(each, Failed)] == ["scheme"] * 3 + ["bad_row"]
    assert ended[4] == Fetched(b"bytes", None, 1), "a file of this machine is read as ever"


def test_a_url_that_never_ends_fails_at_its_deadline_and_delays_no_other(server: Server) -> None:
    def dripping(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
        while not server.stopping.wait(0.2):
            request.wfile.write(b"x")

    drip, good = server.add("/drip", dripping), server.add("/good", answer(b"good"))
    ended = outcomes(*[row(drip)] * 4, *[row(good)] * 4, connections=4, deadline=2)
    assert [each.reason for each in ended[:4] if isinstance(each, Failed)] == ["timeout"] * 4
    assert ended[4:] == [Fetched(b"good", None, 1)] * 4


def test_no_more_at_once_than_connections(server: Server) -> None:
    inside, most = itertools.count(), 0
    lock, present = threading.Lock(), set[int]()

    def counting(request: BaseHTTPRequestHandler) -> None:
        nonlocal most
        with lock:
            number = next(inside)
            present.add(number)
            most = max(most, len(present))
        server.stopping.wait(0.05)
        present.discard(number)
        answer(b"good")(request)

    url = server.add("/", counting)
    assert outcomes(*[row(url)] * 40, connections=4) == [Fetched(b"good", None, 1)] * 40
    assert 2 <= most <= 4


def test_rows_that_are_not_there_yet_are_asked_for_again(server: Server) -> None:
    good = server.add("/good", answer(b"good"))

    def rows() -> Iterator[tuple[int, UrlRow] | None]:
        yield 0, row(good)
        yield from [None] * 3
        yield 1, row(good)

    ended = [each for each in fetch(rows(), CONFIG, download=with_urllib) if each]
    assert ended == [(0, Fetched(b"good", None, 1)), (1, Fetched(b"good", None, 1))]
