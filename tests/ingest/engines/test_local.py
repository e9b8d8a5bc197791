"""The local engine with real workers: what it yields when they live, and when they are killed."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from multiprocessing import forkserver
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.engines.engine import Crashed, Outcomes
from clipkit.ingest.engines.local import local
from clipkit.ingest.rows import Chunk, ChunkOutcome, UrlRow
from clipkit.ingest.worker import PartMaker, Underway, make_crashed_part
from clipkit.shards.parts import make_parts_folder
from tests.serving import Server, answer, encoded, kill_workers, photo

CONFIG = IngestConfig(allow_private_hosts=True, image_size=32, workers=2, retries=0, timeout=30, deadline=60)


def chunk(number: int, *urls: str) -> Chunk:
    return Chunk(number, tuple(UrlRow("list", number * 10 + row, url, "") for row, url in enumerate(urls)))


def ended(outcomes: Outcomes) -> Iterator[ChunkOutcome | Crashed]:
    """The outcomes of whole chunks."""
    return (outcome for outcome in outcomes if not isinstance(outcome, Underway))


@pytest.fixture
def function(tmp_path: Path) -> PartMaker:
    make_parts_folder(tmp_path, 0)
    return PartMaker(tmp_path, 0, CONFIG)


def test_every_chunk_has_an_outcome(server: Server, function: PartMaker, tmp_path: Path) -> None:
    good, bad = server.add("/good", answer(encoded(photo()))), server.url("/bad")
    chunks = [chunk(number, good, bad, good) for number in range(5)]
    outcomes = list(ended(local(function, iter(chunks), 2, 3)))
    assert all(isinstance(outcome, ChunkOutcome) for outcome in outcomes)
    assert sorted(outcome.number for outcome in outcomes if isinstance(outcome, ChunkOutcome)) == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert {(outcome.successes, outcome.failures["http_4xx"]) for outcome in outcomes
            if isinstance(outcome, ChunkOutcome)} == {(2, 1)}  # fmt: skip
    assert len(list(function.parts.glob("*.parquet"))) == 5
    assert not multiprocessing.active_children()


def test_nothing_to_do_ends_at_once(function: PartMaker) -> None:
    assert list(ended(local(function, iter(()), 1, 1))) == []


def test_a_killed_worker_is_replaced_and_its_chunk_tried_again(server: Server, function: PartMaker) -> None:
    picture = answer(encoded(photo()))

    def deadly_once(request: BaseHTTPRequestHandler) -> None:
        if server.hits["/deadly"] == 1:
            kill_workers()
        picture(request)

    chunks = [chunk(0, server.add("/deadly", deadly_once)), chunk(1, server.add("/", picture))]
    outcomes = list(ended(local(function, iter(chunks), 1, 4)))
    assert [outcome for outcome in outcomes if isinstance(outcome, Crashed)] == []
    assert len(outcomes) == 2
    assert server.hits["/deadly"] == 2


def test_what_starts_workers_may_die_while_one_starts(function: PartMaker) -> None:
    assert len(list(ended(local(function, iter([chunk(0, "ftp://x/")]), 1, 1)))) == 1
    server: int = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(server, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, (server, signal.SIGKILL)).start()
    assert len(list(ended(local(function, iter([chunk(1, "ftp://x/")]), 1, 1)))) == 1


def test_a_chunk_that_kills_every_worker_is_given_up(
    server: Server, function: PartMaker, tmp_path: Path
) -> None:
    deadly = chunk(0, server.add("/deadly", kill_workers), "ftp://x/")
    outcomes = list(ended(local(function, iter([deadly, chunk(1, server.add("/", answer(b"")))]), 1, 4)))
    (crashed,) = [outcome for outcome in outcomes if isinstance(outcome, Crashed)]
    assert crashed == Crashed(deadly, "signal SIGKILL")
    assert server.hits["/deadly"] == 2
    assert len(outcomes) == 2, "the other chunk goes on"
    assert make_crashed_part(deadly, function.parts) == ChunkOutcome(0, 0, {"worker_crashed": 2}, 0)
    part = pq.read_table(function.parts / "00000000.parquet")
    assert part["reason"].to_pylist() == ["worker_crashed"] * 2
    assert part["retryable"].to_pylist() == [True] * 2


def test_a_chunk_at_work_beside_a_deadly_one_survives(server: Server, function: PartMaker) -> None:
    waiting = threading.Event()

    def slow(request: BaseHTTPRequestHandler) -> None:
        if not waiting.is_set():  # only at first, until its worker dies
            waiting.set()
            server.silence(request)
        answer(encoded(photo()))(request)

    def deadly(request: BaseHTTPRequestHandler) -> None:
        assert waiting.wait(60)
        kill_workers()

    chunks = [chunk(0, server.add("/slow", slow)), chunk(1, server.add("/deadly", deadly))]
    outcomes = list(ended(local(function, iter(chunks), 1, 4)))
    assert outcomes == [ChunkOutcome(0, 1, {}, len(encoded(photo()))), Crashed(chunks[1], "signal SIGKILL")]
    assert server.hits == {"/slow": 2, "/deadly": 2}


def test_what_the_function_raises_is_raised_here(tmp_path: Path) -> None:
    function = PartMaker(tmp_path / "missing" / "folder", 0, CONFIG)
    with pytest.raises(FileNotFoundError) as raised:
        list(ended(local(function, iter([chunk(0, "ftp://x/")]), 2, 1)))
    assert "make_parts" in "".join(raised.value.__notes__), "the way there is told"
    assert not multiprocessing.active_children()


def test_no_chunk_beyond_the_window_is_started(server: Server, function: PartMaker) -> None:
    release = threading.Event()

    def slow(request: BaseHTTPRequestHandler) -> None:
        release.wait(60)
        answer(b"")(request)

    server.add("/slow", slow)
    quick = server.add("/quick", answer(b""))
    done: list[int] = []
    started = 0

    def chunks() -> Iterator[Chunk]:
        nonlocal started
        for number in range(8):
            started = number  # the engine holds one chunk ready beyond those that it has given out
            yield chunk(number, server.url("/slow") if number == 0 else quick)

    with closing(local(function, chunks(), 2, 4)) as outcomes:
        for outcome in ended(outcomes):
            assert isinstance(outcome, ChunkOutcome)
            done.append(outcome.number)
            if len(done) == 3:
                assert started == 4
                threading.Timer(0.5, release.set).start()  # time enough for one who looked at no window
    assert sorted(done[:3]) == [1, 2, 3] and done[3] == 0
    assert sorted(done) == list(range(8))


def test_closing_stops_the_workers(server: Server, function: PartMaker) -> None:
    server.add("/silent", server.silence)
    outcomes = local(function, iter([chunk(0, "ftp://x/"), chunk(1, server.url("/silent"))]), 2, 4)
    first = next(ended(outcomes))
    assert isinstance(first, ChunkOutcome)
    assert first.number == 0
    assert multiprocessing.active_children()
    outcomes.close()
    assert not multiprocessing.active_children()
