"""Where redirects lead, and bodies whose Content-Encoding is not what they are in."""

import gzip
import time
from http.server import BaseHTTPRequestHandler

import pytest

from clipkit.ingest.rows import Failed, Fetched
from tests.ingest.test_fetch import CONFIG, few_at_a_time, outcome, outcomes, redirect
from tests.processes import until
from tests.serving import Present, Server, answer, encoded, photo, raw

HERE = Fetched(b"here", 200, 1)


def endless(request: BaseHTTPRequestHandler) -> None:
    request.send_response(302)
    request.send_header("Location", "/here")
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    while True:
        request.wfile.write(b"1000\r\n" + bytes(4096) + b"\r\n")


def without_end(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.0 302 Found\r\nLocation: /late\r\n\r\n")
    while True:
        time.sleep(0.05)
        request.wfile.write(bytes(200))


def late(request: BaseHTTPRequestHandler) -> None:
    time.sleep(0.3)
    answer(b"here")(request)


def test_redirects_are_followed_to_five(server: Server) -> None:
    server.add("/0", answer(b"here"))
    for number in range(1, 7):
        server.add(f"/{number}", redirect(f"/{number - 1}"))
    assert outcome(server.url("/5")) == HERE
    assert outcome(server.url("/6")) == Failed("redirects", "Maximum (5) redirects followed", 302, 1)


def test_names_of_redirects_are_looked_up_as_those_of_the_list(server: Server) -> None:
    server.add("/gr%C3%BC%C3%9Fe?a%20b", answer(b"here"))
    asked: list[str] = []

    def resolve(host: str) -> list[str]:
        asked.append(host)
        time.sleep(0.1)
        return ["127.0.0.1"]

    where = f"http://bücher.test:{server.port}/grüße?a b#there".encode().decode("latin-1")
    assert outcome(server.add("/", redirect(where)), resolve=resolve) == HERE
    assert asked == ["xn--bcher-kva.test"]


@pytest.mark.parametrize(
    ("location", "requested"),
    [
        ("here", "/a/here"),
        ("../here?x#y", "/here?x"),
        ("?x", "/a/b?x"),
        ("/h\xe4", "/h%E4"),
        ("//127.0.0.1:PORT/here", "/here"),
        ("HTTP://u:p@127.0.0.1:PORT", "/"),
    ],
)
def test_locations_are_taken_as_browsers_do(server: Server, location: str, requested: str) -> None:
    server.add(requested, answer(b"here"))
    there = location.replace("PORT", str(server.port))
    assert outcome(server.add("/a/b", redirect(there))) == HERE


@pytest.mark.parametrize(
    ("location", "reason"),
    [("http://[::1/", "bad_url"), ("http://h:99999/", "bad_url"), ("data:,x", "scheme"), ("", "redirects")],
)
def test_locations_that_lead_nowhere_have_their_reason(server: Server, location: str, reason: str) -> None:
    failed = outcome(server.add("/", redirect(location)))
    assert isinstance(failed, Failed) and failed.detail
    assert (failed.reason, failed.http_status, failed.attempts) == (reason, 302, 1)


def test_what_a_redirect_says_beside_is_not_waited_for(server: Server) -> None:
    server.add("/here", answer(b"here"))
    assert outcome(server.add("/large", answer(bytes(900_000), 302, {"Location": "/here"}))) == HERE
    assert outcome(server.add("/endless", endless)) == HERE
    server.add("/late", late)
    assert outcome(server.add("/without-end", without_end), deadline=3) == HERE
    moved = b"HTTP/1.1 301 Moved\r\nLocation: /here\r\n"
    trailer = b"Transfer-Encoding: chunked\r\n\r\n0\r\nLocation: /elsewhere\r\n\r\n"
    assert outcome(server.add("/trailer", raw(moved, trailer))) == HERE
    assert outcome(server.add("/short", raw(moved, b"Content-Length: 99\r\n\r\nx"))) == HERE
    assert outcome(server.add("/damaged", raw(moved, b"Content-Encoding: gzip\r\n\r\nx"))) == HERE


def test_servers_that_hang_up_after_each_redirect_cost_no_attempt(server: Server) -> None:
    server.add("/0", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere"))
    for number in range(1, 6):
        says = f"HTTP/1.1 302 Found\r\nLocation: /{number - 1}\r\nContent-Length: 0\r\n\r\n"
        server.add(f"/{number}", raw(says.encode()))
    assert outcome(server.url("/5"), retries=0) == HERE


@pytest.mark.parametrize(
    "encoding", ["utf-8", "binary", "aws-chunked", "base64", "image/jpeg", "zstd", "gzip", "deflate", "br"]
)
def test_a_body_in_another_encoding_than_is_said_is_taken_as_it_is(server: Server, encoding: str) -> None:
    picture = encoded(photo())
    url = server.add("/", answer(picture, 200, {"Content-Encoding": encoding}))
    assert outcome(url, retries=0) == Fetched(picture, 200, 1)
    assert server.hits["/"] == 2


def test_a_body_in_the_encoding_that_is_said_is_decoded(server: Server) -> None:
    url = server.add("/", answer(gzip.compress(b"here"), 200, {"Content-Encoding": "gzip"}))
    assert outcome(url) == HERE
    assert server.hits["/"] == 1


def test_redirects_from_many_hosts_wait_for_their_turn_at_one(server: Server) -> None:
    present = Present()

    def counted(request: BaseHTTPRequestHandler) -> None:
        with present:
            late(request)

    server.add("/late", counted)
    server.add("/", redirect(f"http://one.test:{server.port}/late"))
    urls = [f"http://h{number}.test:{server.port}/" for number in range(10)]
    config = CONFIG.model_copy(
        update={"per_host": 1, "retries": 0}
    )  # three seconds, of which each is idle one
    assert outcomes(urls, config, lambda host: ["127.0.0.1"]) == [Fetched(b"here", 200, 1)] * 10
    assert present.most == 1


def test_a_host_that_asks_to_wait_is_left_alone_by_redirects_too(server: Server) -> None:
    asked: list[tuple[str, float]] = []

    def limited(request: BaseHTTPRequestHandler) -> None:
        asked.append((request.path, time.monotonic()))
        is_first = len(asked) == 1
        answer(b"here", 429 if is_first else 200, {"Retry-After": "1"} if is_first else {})(request)

    def once_asked(request: BaseHTTPRequestHandler) -> None:
        until(lambda: asked, "the host has asked us to wait")
        server.stopping.wait(0.3)
        redirect(f"http://one.test:{server.port}/late")(request)

    for path in ("/first", "/late"):
        server.add(path, limited)
    server.add("/", redirect(f"http://one.test:{server.port}/first"))
    server.add("/then", once_asked)
    server.add("/elsewhere", answer(b"here"))
    where = ["a.test/", "b.test/then", "c.test/then", "d.test/elsewhere"]
    urls = [f"http://{host}:{server.port}/{path}" for host, path in (each.split("/") for each in where)]
    config = CONFIG.model_copy(update={"retries": 1})
    ended = outcomes(urls, config, lambda host: ["127.0.0.1"])
    assert ended == [Fetched(b"here", 200, attempts) for attempts in (2, 1, 1, 1)]
    assert sorted(path for path, _ in asked) == ["/first", "/first", "/late", "/late"]
    assert all(moment - asked[0][1] >= 1 for _, moment in asked[1:])


def test_a_redirect_to_a_host_that_asks_for_too_long_a_wait_fails_as_that(server: Server) -> None:
    server.add("/busy", answer(b"", 429, {"Retry-After": "3600"}))
    server.add("/", redirect(f"http://one.test:{server.port}/busy"))
    urls = [f"http://one.test:{server.port}/busy", *(f"http://h{n}.test:{server.port}/" for n in range(3))]
    config = CONFIG.model_copy(update={"connections": 1})
    first, *others = outcomes(urls, config, lambda host: ["127.0.0.1"])
    assert first == Failed("rate_limited", "HTTP 429", 429, 1)
    assert others == [Failed("rate_limited", "the host of its redirect asked us to wait", 302, 0)] * 3
    assert server.hits["/busy"] == 1


def test_redirects_to_a_host_that_answers_few_at_a_time_are_few_at_a_time(server: Server) -> None:
    server.add("/few", few_at_a_time(server))
    server.add("/", redirect(f"http://one.test:{server.port}/few"))
    urls = [f"http://h{number % 10}.test:{server.port}/" for number in range(100)]
    ended = outcomes(urls, CONFIG.model_copy(update={"backoff": 0.1}), lambda host: ["127.0.0.1"])
    assert sum(isinstance(each, Fetched) for each in ended) > 95
    assert server.hits["/few"] < 190
