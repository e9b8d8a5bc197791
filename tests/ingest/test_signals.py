"""Ctrl-C and SIGTERM end the command at once, quietly, and the same command goes on to the same bytes."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.datasets import contents
from tests.ingest.interrupting import Moment, Pictures, command, ended, started
from tests.processes import until, wait_until_gone
from tests.serving import Server, answer, encoded, photo

RECORDS = 1150
PART, SHARD, INDEX = r"/parts/0000/\.?\d{8}", r"/\.?000000", r"/\.index\.parquet"
MOMENTS = [
    Moment("mkdir", "/out$", before=False),
    Moment("open", rf"{PART}\.tar", before=False),
    Moment("replace", rf"{PART}\.tar", before=False),
    Moment("replace", rf"{PART}\.parquet"),
    Moment("open", rf"{SHARD}\.tar", before=False),
    Moment("replace", rf"{SHARD}\.tar", before=False),
    Moment("replace", INDEX),
    Moment("replace", INDEX, before=False),
    Moment("unlink", rf"{PART}\.parquet$", before=False),
    Moment("rmdir", "/parts$"),
    Moment("replace", r"/\.report\.html", before=False),
    Moment("replace", r"/\.dataset\.json", before=False),
]
SIGNALS = {"SIGINT": 130, "SIGTERM": 143}
ONE_SHORT = ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)]


class Signalled:
    """One list, and what an ingest of it gives that no signal interrupts."""

    def __init__(self, server: Server, folder: Path):
        self.folder = folder
        self.list = Pictures(server).listed(folder / "list.tsv", RECORDS)
        self.expected = self.finished(folder / "unbroken")

    def start(self, out: Path, moment: Moment | None = None, deed: str = "") -> "subprocess.Popen[str]":
        return started(command(self.list, out), self.folder, moment, deed)

    def finished(self, out: Path) -> dict[str, bytes]:
        code, output, errors = ended(self.start(out))
        assert code == 0 and '"records": 1150' in output, errors
        return contents(out)


@pytest.fixture(scope="module")
def signalled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signalled]:
    with Server().running() as server:
        yield Signalled(server, tmp_path_factory.mktemp("signals"))


def interrupt(signalled: Signalled, out: Path, name: str, moments: list[Moment]) -> None:
    for moment in moments:
        code, output, errors = ended(signalled.start(out, moment, name))
        assert (code, output) == (SIGNALS[name], ""), (moment, code, errors)
        assert "Traceback" not in errors and "clipkit:" not in errors, (moment, errors)
    assert signalled.finished(out) == signalled.expected


@pytest.mark.parametrize("name", ONE_SHORT)
def test_it_ends_quietly_and_goes_on(signalled: Signalled, tmp_path: Path, name: str) -> None:
    interrupt(signalled, tmp_path / "out", name, MOMENTS[1::6])


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGNALS)
def test_impatience_is_quiet_too(server: Server, tmp_path: Path, name: str) -> None:
    (tmp_path / "list.tsv").write_text(f"x\t{server.add('/', server.silence)}\n")
    for pause in (0.0, 0.001, 0.01, 0.05):
        server.hits.clear()
        process = started(command(tmp_path / "list.tsv", tmp_path / "out"), tmp_path)
        until(lambda: server.hits, "the URL is asked for")
        for _ in range(3):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.Signals[name])
            time.sleep(pause)
        code, _, errors = ended(process)
        assert code in (SIGNALS[name], -signal.Signals[name]) and "Traceback" not in errors, errors


def test_the_parent_alone_is_told_while_its_workers_wait(server: Server, tmp_path: Path) -> None:
    good, late = server.add("/good", answer(encoded(photo()))), server.add("/late", server.silence)
    (tmp_path / "list.tsv").write_text(f"x\t{good}\ny\t{late}\n")
    words = command(tmp_path / "list.tsv", tmp_path / "out")
    process = started(words, tmp_path)
    until(lambda: server.hits["/late"], "the URL is asked for")
    os.kill(process.pid, signal.SIGTERM)  # as service managers and containers do
    code, output, errors = ended(process)
    assert (code, output) == (143, "") and "Traceback" not in errors, errors
    wait_until_gone(process.pid)
    server.add("/late", answer(encoded(photo(seed=1))))
    code, output, errors = ended(started(words, tmp_path))
    assert code == 0 and '"samples": 2' in output, errors


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGNALS)
def test_at_many_moments(signalled: Signalled, tmp_path: Path, name: str) -> None:
    interrupt(signalled, tmp_path / "out", name, MOMENTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGNALS)
def test_at_random_moments(signalled: Signalled, tmp_path: Path, name: str) -> None:
    chance = random.Random(name)
    interrupted = ingests = 0
    while interrupted < 10:
        out = tmp_path / str(ingests)
        process = signalled.start(out)
        # Before that, Python itself is starting.
        until(lambda: process.poll() is not None or (out / ".lock").exists(), "it begins")  # noqa: B023
        time.sleep(chance.uniform(0, 1.5))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.Signals[name])
        code, _, errors = ended(process)
        # While Python itself ends, nobody catches the signal: shells call that 130 and 143, too.
        assert code in (0, SIGNALS[name], -signal.Signals[name]) and "Traceback" not in errors, errors
        interrupted += code != 0
        if code == 0:
            assert contents(out) == signalled.expected
            ingests += 1
    assert signalled.finished(tmp_path / str(ingests)) == signalled.expected
