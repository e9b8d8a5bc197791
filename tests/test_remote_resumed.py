"""Copies of files behind addresses whose connections are lost: what has come is not asked for again."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from clipkit.locations import download, location
from clipkit.remote import RemoteError, TooLargeError
from tests.object_store import BUCKET, ObjectStore
from tests.serving import Server

CONTENT = bytes(range(251)) * 1000
OTHER = CONTENT[::-1]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipkit.remote._PAUSES", (0.01, 0.01))


class Losing:
    """A file of which each answer brings `piece` bytes at the most; then the connection is lost.

    `asked` are the ranges of the requests. `change` may do something before each but the first.
    """

    def __init__(self, piece: int, tag: str = '"1"', *, ranges: bool = True):
        self.piece, self.tag, self.ranges = piece, tag, ranges
        self.content = CONTENT
        self.asked: list[str | None] = []
        self.change: Callable[[], None] = lambda: None

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        if self.asked:
            self.change()
        asked = request.headers.get("Range")
        self.asked.append(asked)
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        rest = self.content[first:]
        request.send_response(416 if first and not rest else 206 if first else 200)
        if rest and first:
            whole = len(self.content)
            request.send_header("Content-Range", f"bytes {first}-{whole - 1}/{whole}")
        if self.tag:
            request.send_header("ETag", self.tag)
        request.send_header("Content-Length", str(len(rest)))
        request.end_headers()
        request.wfile.write(rest[: self.piece])
        request.close_connection = True


def had(server: Server, route: Losing, target: Path, at_most: int | None = None) -> bytes:
    download(location(server.add("/file", route)), target, at_most)
    return target.read_bytes()


def test_it_goes_on_where_the_connection_was_lost(server: Server, tmp_path: Path) -> None:
    losing = Losing(100_000)
    assert had(server, losing, tmp_path / "file", len(CONTENT)) == CONTENT
    assert losing.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_of_much_that_comes_no_number_of_losses_is_too_many(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("clipkit.remote_path._MUCH", 30_000)
    losing = Losing(10_000)
    assert had(server, losing, tmp_path / "file") == CONTENT
    assert losing.asked[1:] == [f"bytes={first}-" for first in range(10_000, len(CONTENT), 10_000)]


def test_without_progress_it_ends(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("clipkit.remote_path._MUCH", 30_000)
    losing = Losing(100)
    with pytest.raises(RemoteError, match="tried 3 times"):
        had(server, losing, tmp_path / "file")
    assert len(losing.asked) == 3


@pytest.mark.parametrize("tag", ["", 'W/"1"'])
def test_what_has_no_certain_version_is_had_anew(tag: str, server: Server, tmp_path: Path) -> None:
    losing = Losing(100_000, tag)

    def mend() -> None:
        losing.piece = len(CONTENT)

    losing.change = mend
    assert had(server, losing, tmp_path / "file") == CONTENT and losing.asked == [None, None]


def test_a_server_without_ranges_gives_it_anew(server: Server, tmp_path: Path) -> None:
    losing = Losing(100_000, ranges=False)

    def mend() -> None:
        losing.piece = len(CONTENT)

    losing.change = mend
    assert had(server, losing, tmp_path / "file") == CONTENT and losing.asked == [None, "bytes=100000-"]


@pytest.mark.parametrize("length", [len(OTHER), 150_000, 90_000])
def test_a_file_that_is_replaced_meanwhile_is_had_as_it_is_then(
    length: int, server: Server, tmp_path: Path
) -> None:
    losing = Losing(100_000)

    def replace() -> None:
        losing.content, losing.tag, losing.piece = OTHER[:length], '"2"', len(OTHER)

    losing.change = replace
    assert had(server, losing, tmp_path / "file") == OTHER[:length]
    assert losing.asked == [None, "bytes=100000-", None]


def test_a_part_that_is_shorter_than_was_asked_for_is_not_the_whole(server: Server, tmp_path: Path) -> None:
    asked: list[str | None] = []

    def route(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.headers.get("Range"))
        first = int((asked[-1] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        piece = CONTENT[first : first + 100_000]
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {first}-{first + len(piece) - 1}/{len(CONTENT)}")
        request.send_header("ETag", '"1"')
        request.send_header("Content-Length", str(len(piece)))
        request.end_headers()
        request.wfile.write(piece)

    download(location(server.add("/file", route)), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert asked == [None, "bytes=100000-", "bytes=200000-"]


def test_after_another_part_than_was_asked_for_it_is_had_anew(server: Server, tmp_path: Path) -> None:
    asked: list[str | None] = []

    def route(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.headers.get("Range"))
        request.send_response(206 if asked[-1] else 200)
        if asked[-1]:
            request.send_header("Content-Range", f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}")
        request.send_header("ETag", '"1"')
        request.send_header("Content-Length", str(len(CONTENT)))
        request.end_headers()
        request.wfile.write(CONTENT if len(asked) > 1 else CONTENT[:100_000])
        request.close_connection = True

    download(location(server.add("/file", route)), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert asked == [None, "bytes=100000-", None]


def test_no_more_is_taken_than_is_allowed_in_all(server: Server, tmp_path: Path) -> None:
    losing = Losing(100_000)
    with pytest.raises(TooLargeError):
        had(server, losing, tmp_path / "file", len(CONTENT) - 1)
    assert losing.asked == [None]


@pytest.mark.parametrize("fault", ["short", "reset"])
def test_a_bucket_is_asked_for_the_rest(fault: str, store: ObjectStore, tmp_path: Path) -> None:
    store.fs.pipe(f"{BUCKET}/large", CONTENT)
    ranges: list[str] = []

    def noted(asked: str) -> str:
        ranges.append(asked)
        return asked

    store.range_of = noted
    left = [fault]
    store.fault = lambda method, path: left.pop() if left and method == "GET" else None
    download(location(f"s3://{BUCKET}/large"), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    half = len(CONTENT) // 2
    assert ranges == ([f"bytes={half}-"] if fault == "short" else [])


@pytest.mark.parametrize("length", [len(OTHER), 90_000])
def test_an_object_that_is_replaced_meanwhile_is_had_as_it_is_then(
    length: int, store: ObjectStore, tmp_path: Path
) -> None:
    store.fs.pipe(f"{BUCKET}/replaced", CONTENT)
    gets: list[str] = []

    def fault(method: str, path: str) -> str | None:
        gets.extend([path] * (method == "GET"))
        if method == "GET" and len(gets) == 2:
            store.fs.pipe(f"{BUCKET}/replaced", OTHER[:length])
        return "short" if method == "GET" and len(gets) == 1 else None

    store.fault = fault
    download(location(f"s3://{BUCKET}/replaced"), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == OTHER[:length] and len(gets) == 3
