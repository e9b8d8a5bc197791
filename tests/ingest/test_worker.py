"""One worker over several chunks: what overlaps, what is told meanwhile, and what memory does not hold."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.rows import Chunk, ChunkOutcome, UrlRow
from clipkit.ingest.worker import Underway, make_part, make_parts
from tests.serving import Server, answer, encoded, photo

CONFIG = IngestConfig(
    allow_private_hosts=True, image_size=32, workers=1, connections=8, retries=0, timeout=30, deadline=60
)


def chunks_of(urls: list[str], size: int) -> list[Chunk]:
    rows = [UrlRow("list", number, url, f"row {number}") for number, url in enumerate(urls)]
    return [Chunk(first // size, tuple(rows[first : first + size])) for first in range(0, len(rows), size)]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def gathered(server: Server, parties: int) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer once so many such requests are waiting at the same time; never, if they do not come."""
    together = threading.Barrier(parties)

    def route(request: BaseHTTPRequestHandler) -> None:
        together.wait(30)
        answer(encoded(photo(40, 40)))(request)

    return route


def test_one_slow_url_in_each_chunk_delays_all_of_them_once(server: Server, tmp_path: Path) -> None:
    slow = gathered(server, 4)  # they are answered only if all four chunks are at work together
    urls = []
    for row in range(40):
        path = f"/{row}"
        urls.append(server.add(path, slow if row % 10 == 3 else answer(encoded(photo(40, 40, row)))))
    outcomes = [news for news in make_parts(chunks_of(urls, 10), tmp_path, CONFIG)
                if isinstance(news, ChunkOutcome)]  # fmt: skip
    assert [(outcome.successes, outcome.failures) for outcome in outcomes] == [(10, {})] * 4
    assert all(server.hits[f"/{row}"] == 1 for row in range(40))


def test_overlapping_chunks_give_the_same_bytes_as_one_at_a_time(server: Server, tmp_path: Path) -> None:
    urls = [server.add(f"/{row}", answer(encoded(photo(40 + row, 50, row)))) for row in range(30)]
    urls[4], urls[13] = server.url("/gone"), "ftp://x/"
    chunks = chunks_of(urls, 7)
    (tmp_path / "together").mkdir()
    (tmp_path / "alone").mkdir()
    together = [news for news in make_parts(chunks, tmp_path / "together", CONFIG)
                if isinstance(news, ChunkOutcome)]  # fmt: skip
    alone = [make_part(chunk, tmp_path / "alone", CONFIG) for chunk in chunks]
    assert sorted(together, key=lambda outcome: outcome.number) == alone
    assert bytes_of(tmp_path / "together") == bytes_of(tmp_path / "alone")
    assert len(bytes_of(tmp_path / "alone")) == 2 * len(chunks), "nothing else is left there"


def test_counts_are_told_while_a_chunk_is_at_work(server: Server, tmp_path: Path) -> None:
    release = threading.Event()

    def slow(request: BaseHTTPRequestHandler) -> None:
        release.wait(30)
        answer(b"")(request)

    picture = encoded(photo(40, 40))
    good = server.add("/good", answer(picture))
    (chunk,) = chunks_of([good, server.url("/gone"), server.add("/slow", slow), good], 4)
    told: list[ChunkOutcome] = []
    for news in make_parts([chunk], tmp_path, CONFIG):
        if isinstance(news, Underway):
            told += news.chunks
            if told[-1].successes == 2 and told[-1].failures:
                release.set()
        else:
            assert news == ChunkOutcome(0, 2, {"http_4xx": 1, "empty": 1}, 2 * len(picture))
    assert told[-1] == ChunkOutcome(0, 2, {"http_4xx": 1}, 2 * len(picture))


def test_a_chunk_that_is_not_there_yet_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    first, second = chunks_of([server.add(f"/{row}", answer(b"")) for row in range(2)], 1)

    def given() -> Iterator[Chunk | None]:
        yield None
        yield first
        while not server.hits["/0"]:
            yield None
        yield second

    assert [news.number for news in make_parts(given(), tmp_path, CONFIG)
            if isinstance(news, ChunkOutcome)] == [0, 1]  # fmt: skip


def test_what_a_chunk_cannot_write_is_raised(server: Server, tmp_path: Path) -> None:
    (chunk,) = chunks_of([server.add("/", answer(encoded(photo(40, 40))))], 1)
    (tmp_path / "00000000.tar").mkdir()  # in the part's place
    with pytest.raises(IsADirectoryError):
        make_part(chunk, tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["00000000.tar"]
