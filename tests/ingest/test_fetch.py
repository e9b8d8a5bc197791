"""Fetching, against a server that does everything a server should not."""

import gzip
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler

import pytest

from clipkit._version import VERSION
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.fetch import fetch
from clipkit.ingest.resolve import Resolve, system_resolve
from clipkit.ingest.rows import Failed, Fetched, Limit, UrlRow
from tests.processes import connections_to
from tests.serving import Present, Route, Server, answer, raw

CONFIG = IngestConfig(allow_private_hosts=True, workers=1, timeout=1, deadline=20, backoff=0.01, retries=2)


def outcomes(
    urls: list[str], config: IngestConfig = CONFIG, resolve: Resolve = system_resolve
) -> list[Fetched | Failed]:
    rows = [UrlRow("list", number, url, "") for number, url in enumerate(urls)]
    ended = dict(filter(None, fetch(enumerate(rows), config, resolve)))
    assert sorted(ended) == list(range(len(urls)))
    return [ended[number] for number in range(len(urls))]


def outcome(
    url: str, config: IngestConfig = CONFIG, resolve: Resolve = system_resolve, **settings: object
) -> Fetched | Failed:
    return outcomes([url], config.model_copy(update=settings), resolve)[0]


def redirect(location: str, status: int = 302) -> Route:
    return answer(b"elsewhere", status, {"Location": location})


def endless(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(bytes(65_536))


def test_a_body_comes_as_served(server: Server) -> None:
    seen: dict[str, str] = {}

    def route(request: BaseHTTPRequestHandler) -> None:
        seen.update(request.headers.items())
        answer(bytes(range(256)) * 1000)(request)

    url = server.add("/picture", route)
    assert outcome(url, contact="https://example.org/robot") == Fetched(bytes(range(256)) * 1000, 200, 1)
    assert seen["User-Agent"] == f"clipkit/{VERSION} (+https://example.org/robot)"
    assert seen["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Referer", "Authorization"} & set(seen)


# Ten megabytes of deflate's empty blocks, which decode to nothing at all, twice compressed.
BOMB = gzip.compress(gzip.compress(b"\x1f\x8b\x08" + bytes(7) + b"\x00\x00\x00\xff\xff" * 2_000_000))
EARLY = b"HTTP/1.1 103 Early Hints\r\nX-Robots-Tag: noai\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx"
GZIPPED = {"Content-Encoding": "gzip"}
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
REASONS: list[tuple[str, Route, str, int | None, int]] = [
    # name, answer, reason, HTTP status, attempts (retries=2)
    ("gone", answer(b"", 404), "http_4xx", 404, 1),
    ("forbidden", answer(b"x" * 1_000_000, 403), "http_4xx", 403, 1),
    ("broken", answer(b"", 503), "http_5xx", 503, 3),
    ("late", answer(b"", 408), "timeout", 408, 3),
    ("limited", answer(b"", 429), "rate_limited", 429, 3),
    ("of a proxy without our password", answer(b"", 407), "connect", 407, 3),
    ("loop", redirect("/loop"), "redirects", 302, 1),
    ("nowhere", answer(b"", 302), "redirects", 302, 1),
    ("to a file", redirect("file:///etc/passwd"), "scheme", 302, 1),
    ("to gopher", redirect("gopher://127.0.0.1/"), "scheme", 302, 1),
    ("to metadata", redirect("http://169.254.169.254/latest/meta-data/"), "address", 302, 1),
    ("to mapped metadata", redirect("http://[::ffff:169.254.169.254]/"), "address", 302, 1),
    ("endless", endless, "too_large", 200, 1),
    ("announced", answer(bytes(30_000_000)), "too_large", 200, 1),
    ("gzip bomb", answer(gzip.compress(bytes(50_000_000)), 200, GZIPPED), "too_large", 200, 1),
    ("short", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"), "truncated", 200, 1),
    ("short chunks", raw(CHUNKED, b"99\r\nabc"), "truncated", 200, 1),
    ("bad chunks", raw(CHUNKED, b"zz\r\nabc"), "protocol", 200, 1),
    ("nothing", raw(), "reset", None, 3),
    ("no HTTP", raw(b"hello world\r\n\r\n"), "protocol", None, 1),
    ("huge status", raw(b"HTTP/1.1 99999999999 OK\r\n\r\nx"), "protocol", None, 1),
    ("small status", raw(b"HTTP/1.1 099 OK\r\n\r\nx"), "protocol", None, 1),
    ("many headers", raw(b"HTTP/1.1 200 OK\r\n", (b"X: " + b"x" * 100 + b"\r\n") * 1500), "protocol", 200, 1),
    ("long header", raw(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 1_000_000), "protocol", 200, 1),
    ("opted out", answer(b"picture", 200, {"X-Robots-Tag": "otherbot: nofollow, NoAI"}), "opted_out", 200, 1),
    ("opted out later", raw(b"HTTP/1.1 200 OK\r\nX-Robots-Tag: all\r\nx-robots-tag:noimageai\r\n\r\nx"),
     "opted_out", 200, 1),
    ("opted out in a folded line", raw(b"HTTP/1.1 200 OK\r\nX-Robots-Tag: all,\r\n\tNoAI\r\n\r\nx"),
     "opted_out", 200, 1),
    ("opted out in a trailer", raw(CHUNKED, b"1\r\nx\r\n0\r\nX-Robots-Tag: noai\r\n\r\n"),
     "opted_out", 200, 1),
    ("opted out before it moved", answer(b"", 302, {"Location": "/clean", "X-Robots-Tag": "noai"}),
     "opted_out", 302, 1),
    ("opted out in early hints", raw(EARLY), "opted_out", 103, 1),
    ("opted out in who knows what", answer(b"x", 200, {"X-Robots-Tag": "\xfe\xffno"}), "opted_out", 200, 1),
    ("gone and opted out", answer(b"", 404, {"X-Robots-Tag": "noindex"}), "http_4xx", 404, 1),
    ("a bomb in wrappings", answer(BOMB, 200, {"Content-Encoding": "gzip, gzip, gzip"}), "protocol", 200, 1),
    ("of two headers", raw(b"HTTP/1.1 200 OK\r\n", b"Content-Encoding: gzip\r\n" * 2, b"\r\n", BOMB),
     "protocol", 200, 1),
    ("interim answers", raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 5000), "protocol", 100, 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "route", "reason", "status", "attempts"), REASONS, ids=[row[0] for row in REASONS]
)
def test_each_misdeed_has_its_reason(
    server: Server, name: str, route: Route, reason: str, status: int | None, attempts: int
) -> None:
    server.add("/clean", answer(b"x"))
    failed = outcome(server.add("/loop", route))
    assert isinstance(failed, Failed)
    # What may pass is tried again, what may not is not.
    assert (failed.reason, failed.http_status) == (reason, status), failed
    assert failed.attempts == (3 if failed.retryable else attempts)
    assert failed.detail and "None" not in failed.detail
    assert server.hits["/loop"] == (6 if name == "loop" else failed.attempts)


def test_urls_that_are_never_requested() -> None:
    rows = [UrlRow("list", 0, "", "text", "expected 2 columns, found 1")]
    assert dict(filter(None, fetch(enumerate(rows), CONFIG))) == {
        0: Failed("bad_row", "expected 2 columns, found 1")
    }
    reasons = [failed.reason for failed in outcomes(["ftp://a/b", "file:///etc/passwd", "http://", "x"])
               if isinstance(failed, Failed)]  # fmt: skip
    assert reasons == ["scheme", "scheme", "bad_url", "bad_url"]


def test_twenty_megabytes_are_taken_and_not_a_byte_more(server: Server) -> None:
    def unannounced(body: bytes) -> Route:
        return raw(b"HTTP/1.1 200 OK\r\n\r\n", body)

    whole, more = bytes(20_000_000), bytes(20_000_001)
    for route in (answer, unannounced):
        assert outcome(server.add("/", route(whole))) == Fetched(whole, 200, 1)
        assert outcome(server.add("/", route(more))) == Failed(
            "too_large", "more than 20000000 bytes", 200, 1
        )


def test_a_byte_now_and_then_is_too_slow(server: Server) -> None:
    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100000")
        request.end_headers()
        while not server.stopping.wait(0.1):
            request.wfile.write(b"x")

    failed = outcome(server.add("/drip", drip), retries=0)
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.http_status) == ("too_slow", 200)


def test_silence_ends_at_the_timeout_and_at_the_deadline(server: Server) -> None:
    url = server.add("/silent", server.silence)
    for settings, attempts in (
        ({"retries": 0}, {1}),
        ({"retries": 20, "deadline": 4}, {2, 3, 4}),
        ({"deadline": 0.3}, {1}),
    ):
        failed = outcome(url, **settings)
        assert isinstance(failed, Failed)
        assert (failed.reason, failed.http_status) == ("timeout", None) and failed.attempts in attempts, (
            settings
        )


def test_a_server_that_takes_no_more_connections_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as waiting:
        for _ in range(3):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        failed = outcome(f"http://127.0.0.1:{full.getsockname()[1]}/", retries=0)
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.http_status, failed.attempts) == ("timeout", None, 1)


def after(failures: int, failure: Route, success: Route) -> Route:
    """Answer by `failure` so many times, then by `success`."""
    left = [failure] * failures

    def route(request: BaseHTTPRequestHandler) -> None:
        (left.pop() if left else success)(request)

    return route


@pytest.mark.parametrize(
    "failure",
    [answer(b"", 500), answer(b"", 429), raw(), raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")],
    ids=["500", "429", "reset", "truncated"],
)
def test_what_may_pass_is_tried_again(server: Server, failure: Route) -> None:
    url = server.add("/later", after(2, failure, answer(b"picture")))
    assert outcome(url) == Fetched(b"picture", 200, 3)
    assert server.hits["/later"] == 3


def test_each_wait_before_a_retry_is_longer_than_the_last(server: Server) -> None:
    times: list[float] = []

    def broken(request: BaseHTTPRequestHandler) -> None:
        times.append(time.monotonic())
        answer(b"", 500)(request)

    assert outcome(server.add("/", broken), backoff=0.2) == Failed("http_5xx", "HTTP 500", 500, 3)
    first, second, third = times
    assert second - first >= 0.15 and third - second >= 0.3  # a quarter less at most


def slow_to_fail(request: BaseHTTPRequestHandler) -> None:
    time.sleep(0.5)
    answer(b"", 500)(request)


def slow_to_end(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    for _ in range(1200):
        request.wfile.write(bytes(1000))
        time.sleep(0.05)


@pytest.mark.parametrize("route", [slow_to_fail, slow_to_end])
def test_a_url_has_one_deadline_over_all_its_attempts(server: Server, route: Route) -> None:
    times: list[float] = []

    def timed(request: BaseHTTPRequestHandler) -> None:
        times.append(time.monotonic())
        route(request)

    failed = outcome(server.add("/", timed), deadline=1.5, retries=99)
    assert isinstance(failed, Failed) and failed.retryable and failed.attempts == len(times)
    assert time.monotonic() - times[0] < 20, "without it a minute"


def test_retry_after_is_obeyed_within_the_deadline(server: Server) -> None:
    times: list[float] = []

    def limited(request: BaseHTTPRequestHandler) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            answer(b"", 429, {"Retry-After": "1"})(request)
        else:
            answer(b"picture")(request)

    assert outcome(server.add("/limited", limited)) == Fetched(b"picture", 200, 2)
    assert times[1] - times[0] >= 1
    far = server.add("/far", answer(b"", 503, {"Retry-After": "3600"}))
    assert outcome(far) == Failed("http_5xx", "HTTP 503", 503, 1)


def test_a_host_that_asks_to_wait_is_left_alone_by_all_its_urls(server: Server) -> None:
    asked: list[tuple[str, float]] = []

    def route(request: BaseHTTPRequestHandler) -> None:
        asked.append((request.path, time.monotonic()))
        limited = len(asked) == 1
        answer(b"x", 429 if limited else 200, {"Retry-After": "1"} if limited else {})(request)

    urls = [server.add(f"/{number}", route) for number in range(6)]
    elsewhere = server.add("/elsewhere", answer(b"y")).replace("127.0.0.1", "localhost")
    config = CONFIG.model_copy(update={"connections": 2, "per_host": 1})
    rows = [UrlRow("list", number, url, "") for number, url in enumerate([*urls, elsewhere])]
    ended = list(filter(None, fetch(enumerate(rows), config)))
    assert dict(ended) == {
        0: Fetched(b"x", 200, 2),
        **{number: Fetched(b"x", 200, 1) for number in range(1, 6)},
        6: Fetched(b"y", 200, 1),
    }
    assert ended[0][0] == 6, "other hosts go on"
    assert all(moment - asked[0][1] >= 1 for _, moment in asked[1:])


def test_urls_of_a_host_that_asks_for_too_long_are_not_asked_for(server: Server) -> None:
    server.add("/limited", answer(b"", 429, {"Retry-After": "3600"}))
    urls = [server.url("/limited")] * 4
    first, *others = outcomes(urls, CONFIG.model_copy(update={"per_host": 1}))
    assert first == Failed("rate_limited", "HTTP 429", 429, 1)
    assert all(isinstance(other, Failed) and (other.reason, other.attempts) == ("rate_limited", 0)
               for other in others)  # fmt: skip
    assert server.hits["/limited"] == 1


def test_short_pauses_of_a_host_end_none_of_the_many_urls_behind_it(server: Server) -> None:
    def busy(request: BaseHTTPRequestHandler) -> None:
        wants_a_pause = server.hits.total() in (1, 5)
        answer(b"x", 429 if wants_a_pause else 200, {"Retry-After": "1"})(request)

    urls = [server.add(f"/{number}", busy) for number in range(9)]
    ended = outcomes(urls, CONFIG.model_copy(update={"per_host": 1, "deadline": 1.9}))
    assert all(isinstance(each, Fetched) for each in ended), ended


def test_a_host_that_asks_for_pauses_is_named(server: Server) -> None:
    limits: set[tuple[str, Limit]] = set()

    def note(host: str, limit: Limit) -> None:
        limits.add((host, limit))

    url = server.add("/busy", after(1, answer(b"", 429, {"Retry-After": "3"}), answer(b"x")))
    rows = [(number, UrlRow("list", number, url, "")) for number in range(3)]
    config = CONFIG.model_copy(update={"per_host": 4})
    assert len(list(filter(None, fetch(rows, config, limited_by=note)))) == 3
    assert limits == {("127.0.0.1", "pause")}


def few_at_a_time(server: Server) -> Route:
    """Answers three requests at a time; others are to wait."""
    free, lock = [True] * 3, threading.Lock()

    def few(request: BaseHTTPRequestHandler) -> None:
        with lock:
            has_room = bool(free) and free.pop()
        if has_room:
            server.stopping.wait(0.02)
            with lock:
                free.append(True)
        answer(b"x", 200 if has_room else 429)(request)

    return few


def test_a_host_that_answers_few_at_a_time_is_asked_for_few_at_a_time(server: Server) -> None:
    few = few_at_a_time(server)
    urls = [server.add(f"/{number}", few) for number in range(150)]
    ended = outcomes(urls, CONFIG.model_copy(update={"backoff": 0.1}))
    assert sum(isinstance(each, Fetched) for each in ended) > 120
    assert server.hits.total() < 300


def test_a_host_that_only_asks_for_pauses_keeps_its_urls_no_longer_than_a_deadline(server: Server) -> None:
    urls = [server.add(f"/{number}", answer(b"", 429, {"Retry-After": "1"})) for number in range(40)]
    ended = outcomes(urls, CONFIG.model_copy(update={"per_host": 1, "deadline": 1.5, "retries": 0}))
    assert {each.reason for each in ended if isinstance(each, Failed)} == {"rate_limited"}
    assert len(ended) == 40 and server.hits.total() <= 3


def test_a_retry_does_not_stand_behind_all_the_urls_of_its_host(server: Server) -> None:
    def slow(request: BaseHTTPRequestHandler) -> None:
        server.stopping.wait(0.15)
        answer(b"x")(request)

    first = server.add("/first", after(1, answer(b"", 500), answer(b"x")))
    urls = [first, *(server.add(f"/{number}", slow) for number in range(10))]
    ended = outcomes(urls, CONFIG.model_copy(update={"per_host": 1, "deadline": 1.0}))
    assert ended == [Fetched(b"x", 200, 2), *[Fetched(b"x", 200, 1)] * 10]


def test_what_expires_behind_a_busy_host_lets_the_next_one_through(server: Server) -> None:
    """A retry whose deadline passes while it waits for a connection must not keep the place of another."""

    def slow(request: BaseHTTPRequestHandler) -> None:
        server.stopping.wait(0.3 if request.path == "/broken" else 0.7)
        answer(b"x", 500 if request.path == "/broken" else 200)(request)

    urls = [server.add("/broken", slow), *(server.add(f"/{n}", slow) for n in range(4))]

    def rows() -> Iterator[tuple[int, UrlRow] | None]:
        begun = time.monotonic()
        for number, url in enumerate(urls):
            while number == 3 and time.monotonic() < begun + 0.85:  # by then the retry waits for its turn
                yield None
            yield number, UrlRow("list", number, url, "")

    config = CONFIG.model_copy(update={"per_host": 1, "deadline": 0.9, "backoff": 0.3, "retries": 1})
    ended = dict(filter(None, fetch(rows(), config)))
    failed = ended.pop(0)
    assert isinstance(failed, Failed) and (failed.reason, failed.attempts) == ("http_5xx", 1)
    assert ended == dict.fromkeys(range(1, 5), Fetched(b"x", 200, 1))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]"])
def test_private_addresses_are_refused_by_default(server: Server, host: str) -> None:
    url = server.add("/", answer(b"secret")).replace("127.0.0.1", host)
    failed = outcome(url, allow_private_hosts=False)
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.attempts) == ("address", 1)
    assert not server.hits


def test_a_site_of_one_s_own_may_be_taken_although_it_opts_out(server: Server) -> None:
    url = server.add("/", answer(b"picture", 200, {"X-Robots-Tag": "noai"}))
    assert outcome(url, ignore_robots_tag=True) == Fetched(b"picture", 200, 1)


def test_the_environment_sets_no_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, server.url(""))
        monkeypatch.setenv(name.upper(), server.url(""))
    assert outcome(server.add("/", answer(b"direct"))) == Fetched(b"direct", 200, 1)
    outcome(server.url("/").replace("http:", "https:"))  # that of a proxy would begin with a CONNECT
    assert server.hits == {"/": 1}


def test_a_proxy_is_asked_for_everything_and_judges_addresses_itself(server: Server) -> None:
    proxy = server.url("")
    server.add("http://nobody.invalid/picture", answer(b"of nobody"))
    server.add("http://169.254.169.254/", answer(b"of the proxy's network"))
    config = CONFIG.model_copy(update={"proxy": proxy, "allow_private_hosts": False, "retries": 0})
    assert outcomes(["http://nobody.invalid/picture", "http://169.254.169.254/"], config) == [
        Fetched(b"of nobody", 200, 1),
        Fetched(b"of the proxy's network", 200, 1),
    ]
    refused = outcome("https://nobody.invalid/", config)  # this one knows no CONNECT
    assert isinstance(refused, Failed)
    assert (refused.reason, refused.http_status) == ("connect", None), refused


def test_a_proxy_that_is_not_there_is_a_failed_connect(server: Server) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{unused.getsockname()[1]}"
        failed = outcome(server.add("/", answer(b"x")), proxy=proxy, retries=0)
    assert isinstance(failed, Failed) and failed.reason == "connect"
    assert not server.hits


def test_nobody_listening_is_a_failed_connect() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        failed = outcome(f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.attempts) == ("connect", 3)
    assert "ms" not in failed.detail, "the same failure must have the same words"


def test_plain_text_where_tls_is_expected_is_tls(server: Server) -> None:
    failed = outcome(server.add("/", answer(b"x")).replace("http:", "https:"))
    assert isinstance(failed, Failed)
    assert failed.reason == "tls"


@pytest.mark.parametrize(
    ("said", "reason", "attempts"),
    [
        (b"", "reset", 3),
        (b"\x16\x03\x03", "reset", 3),  # of a handshake
        (b"\x15\x03\x03\0\2\1\0", "reset", 3),  # a goodbye
        (b"\x15\x03\x03\0\2\2\x28", "tls", 1),  # a refusal
        (b"SSH-2.0-OpenSSH_9.2\r\n", "tls", 1),
    ],
)
def test_a_handshake_that_breaks_off_is_tried_again(said: bytes, reason: str, attempts: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(65_536)
                        connection.sendall(said)

        thread = threading.Thread(target=hang_up)
        thread.start()
        failed = outcome(f"https://127.0.0.1:{listening.getsockname()[1]}/")
        listening.shutdown(socket.SHUT_RDWR)  # ends the accept
        thread.join()
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.attempts) == (reason, attempts), failed


def test_a_host_s_name_is_no_part_of_what_went_wrong() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://chunks.example:{unused.getsockname()[1]}/"
        failed = outcome(url, resolve=lambda host: ["127.0.0.1"])
    assert isinstance(failed, Failed)
    assert failed.reason == "connect" and "chunks" in failed.detail


@pytest.mark.parametrize(
    ("error", "reason", "attempts"),
    [(socket.EAI_NONAME, "dns_not_found", 1), (socket.EAI_AGAIN, "dns_failed", 3)],
)
def test_an_unknown_name_is_told_from_a_resolver_that_is_down(error: int, reason: str, attempts: int) -> None:
    asked: list[str] = []

    def resolve(host: str) -> list[str]:
        asked.append(host)
        raise socket.gaierror(error, "as the test says")

    failed = outcome("http://no-such-host.invalid/x", resolve=resolve)
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.attempts) == (reason, attempts)
    assert asked == ["no-such-host.invalid"] * attempts


def test_a_host_gets_no_more_than_its_connections(server: Server) -> None:
    together, present = threading.Barrier(3), Present()

    def route(request: BaseHTTPRequestHandler) -> None:
        with present:
            together.wait(30)  # three must be here at once, or nobody gets an answer
        answer(b"x")(request)

    urls = [server.add(f"/{number}", route) for number in range(12)]
    config = CONFIG.model_copy(update={"connections": 12, "per_host": 6, "workers": 2, "timeout": 30.0})
    assert outcomes(urls, config) == [Fetched(b"x", 200, 1)] * 12
    assert present.most == 3


def test_connections_that_idle_count_among_those_of_their_host(server: Server) -> None:
    """Each further attempt connects anew, and what it leaves behind stays open."""
    most = 0

    def route(request: BaseHTTPRequestHandler) -> None:
        nonlocal most
        most = max(most, connections_to(server.port))
        answer(b"", 500)(request)

    urls = [server.add(f"/{number}", route) for number in range(8)]
    ended = outcomes(urls, CONFIG.model_copy(update={"per_host": 1}))
    assert ended == [Failed("http_5xx", "HTTP 500", 500, 3)] * 8
    assert most == 1


def test_urls_of_a_busy_host_make_way_for_those_behind_them(server: Server) -> None:
    """A list sorted by host: all of one host's URLs come first, and it has them one after the other."""
    others = threading.Event()

    def patient(request: BaseHTTPRequestHandler) -> None:
        assert others.wait(20), "the URLs of other hosts wait behind this one's"
        answer(b"x")(request)

    def other(request: BaseHTTPRequestHandler) -> None:
        answer(b"y")(request)
        if sum(server.hits[f"/other/{number}"] for number in range(50)) == 50:
            others.set()

    first = [server.add(f"/first/{number}", patient) for number in range(50)]
    second = [server.add(f"/other/{number}", other) for number in range(50)]
    urls = [*first, *(url.replace("127.0.0.1", "localhost") for url in second)]
    config = CONFIG.model_copy(update={"connections": 4, "per_host": 2, "timeout": 30.0, "deadline": 60.0})
    assert outcomes(urls, config) == [Fetched(b"x", 200, 1)] * 50 + [Fetched(b"y", 200, 1)] * 50


def test_waiting_for_a_busy_host_is_not_held_against_a_url(server: Server) -> None:
    def route(request: BaseHTTPRequestHandler) -> None:
        server.stopping.wait(0.5)
        answer(b"x")(request)

    urls = [server.add(f"/{number}", route) for number in range(5)]
    config = CONFIG.model_copy(update={"per_host": 1, "deadline": 2.0, "timeout": 2.0})
    assert outcomes(urls, config) == [Fetched(b"x", 200, 1)] * 5


def test_connections_are_used_again(server: Server) -> None:
    clients: set[object] = set()

    def route(status: int) -> Callable[[BaseHTTPRequestHandler], None]:
        def respond(request: BaseHTTPRequestHandler) -> None:
            clients.add(request.client_address)
            answer(b"x" * 1000, status)(request)

        return respond

    urls = [server.add(f"/{number}", route(404 if number % 3 else 200)) for number in range(40)]
    outcomes(urls, CONFIG.model_copy(update={"connections": 1}))
    assert len(clients) == 1


def test_connections_that_are_closed_without_a_word_cost_no_url(server: Server) -> None:
    route = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")  # and the end of the connection
    urls = [server.add(f"/{number}", route) for number in range(400)]
    ended = outcomes(urls, CONFIG.model_copy(update={"connections": 32}))
    assert [each for each in ended if isinstance(each, Failed)] == []


def test_bodies_beyond_the_memory_wait_and_then_come(server: Server) -> None:
    body = zlib.compress(b"") + bytes(3_000_000)
    urls = [server.add(f"/{number}", answer(body)) for number in range(8)]
    config = CONFIG.model_copy(update={"max_bytes": 63_999_000, "timeout": 30.0, "deadline": 60.0})
    assert outcomes(urls, config) == [Fetched(body, 200, 1)] * 8


def test_bodies_that_come_at_once_are_held_within_the_budget(server: Server) -> None:
    body, together = bytes(5_000_000), threading.Barrier(40)

    def route(request: BaseHTTPRequestHandler) -> None:
        together.wait(30)
        answer(body)(request)

    rows = [UrlRow("list", number, server.add(f"/{number}", route), "") for number in range(40)]
    config = CONFIG.model_copy(update={"timeout": 30.0, "deadline": 60.0})
    tracemalloc.start()
    ended = [outcome == Fetched(body, 200, 1) for _, outcome in filter(None, fetch(enumerate(rows), config))]
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ended == [True] * 40
    assert held < 64_000_000 + len(body)


def test_leaving_early_stops_the_transfers(server: Server) -> None:
    url = server.add("/silent", server.silence)
    rows = [UrlRow("list", 0, url, ""), UrlRow("list", 1, "ftp://x/", "")]
    stream = fetch(enumerate(rows), CONFIG)
    first = next(stream)
    assert first and first[0] == 1
    stream.close()  # type: ignore[attr-defined]
