"""Ingests that are ended at exact moments go on, and come to the same bytes as one that never was."""

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.datasets import contents
from tests.ingest.interrupting import CHUNK_ROWS, Moment, Pictures, ended, program, started
from tests.serving import Server


def around(*moments: tuple[str, str]) -> list[Moment]:
    """The moments before and after the first of each of these calls."""
    return [Moment(*moment, before=before) for moment in moments for before in (True, False)]


PART, FOLDER = r"/parts/0000/\.?\d{8}", r"/parts/0000$"
SHARDS = [rf"/\.?00000{number}" for number in range(3)]
INDEX = r"/\.?index\.parquet"
REMOVED = rf"{PART}\.(tar|parquet)$"
MOMENTS = {
    # Between the writing of a part's tar and the flush of the folder that then has both of its files.
    "part rename": [
        *around(("fsync", rf"{PART}.tar"), ("replace", rf"{PART}.tar"), ("fsync", FOLDER)),
        *around(("fsync", rf"{PART}.parquet"), ("replace", rf"{PART}.parquet")),
        *(Moment("fsync", FOLDER, 2, before) for before in (True, False)),
    ],
    # Amidst the writing of a shard's tar parts are opened.
    "pack": [
        *around(("fsync", rf"{SHARDS[0]}.tar"), ("replace", rf"{SHARDS[0]}.parquet")),
        *(Moment("open", rf"{PART}.tar$", number) for number in (2, 13, 21)),
        *around(("replace", rf"{SHARDS[1]}.tar"), ("fsync", rf"{SHARDS[1]}.parquet")),
        *around(("replace", rf"{SHARDS[2]}.tar"), ("replace", r"/failures/"), ("replace", r"sizes\.json")),
    ],
    # Three times: for both whole shards, and at the end.
    "index replace": 3 * around(("fsync", INDEX), ("replace", INDEX)),
    # The tars when their shards are there, the rest at the end.
    "part removal": [
        *(Moment("unlink", REMOVED, number, before) for number in (1, 3, 7) for before in (True, False)),
        *(Moment("unlink", rf"{PART}\.parquet$", number) for number in (1, 10, 20)),
        *around(("rmdir", r"/parts$")),
    ],
}
A_FEW = [moments[1] for moments in MOMENTS.values()]


class Interrupted:
    """One list that is ingested again and again, not always to the end."""

    def __init__(self, server: Server, folder: Path):
        self.server = server
        self.pictures = Pictures(server)
        self._folder = folder
        self._list = self.pictures.listed(folder / "list.tsv")
        self._ingests = 0
        self._expected = self.finished(folder / "unbroken")

    def forget(self) -> None:
        (self._folder / "deeds").unlink(missing_ok=True)

    def new(self) -> Path:
        self._ingests += 1
        return self._folder / f"killed{self._ingests}"

    def start(self, out: Path, moment: Moment | None = None) -> "subprocess.Popen[str]":
        return started(program(self._list, out), self._folder, moment)

    def dies(self, out: Path, moment: Moment) -> bool:
        code, _, errors = ended(self.start(out, moment))
        assert code in (0, -9), errors
        return code == -9

    def finished(self, out: Path) -> dict[str, bytes]:
        code, _, errors = ended(self.start(out))
        assert code == 0, errors
        return contents(out)

    def check(self, out: Path) -> None:
        assert self.finished(out) == self._expected

    def kill_at(self, moments: Sequence[Moment]) -> None:
        """Kill an ingest at each moment, the same one as long as it has not come to its end before."""
        out = self.new()
        for moment in moments:
            if not self.dies(out, moment):
                self.check(out)
                out = self.new()
                assert self.dies(out, moment), moment
        self.check(out)
        assert len((self._folder / "deeds").read_text().splitlines()) == len(moments)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interrupted]:
    with Server().running() as server:
        yield Interrupted(server, tmp_path_factory.mktemp("interrupted"))


@pytest.fixture(autouse=True)
def no_deeds(interrupted: Interrupted) -> None:
    interrupted.forget()


def complete_chunks(out: Path) -> list[int]:
    return [int(path.stem) for path in (out / "parts" / "0000").glob("*.parquet")]


def kill_downloads(interrupted: Interrupted, requests: Sequence[int]) -> None:
    """Kill one ingest at the so manieth request of each run, at all stages of the answer."""
    out = interrupted.new()
    hits = interrupted.server.hits
    for number, request in enumerate(requests):
        process = interrupted.start(out)
        interrupted.pictures.kill(process.pid, request, number % Pictures.STAGES)
        assert ended(process)[0] == -9
        done = [
            row
            for chunk in complete_chunks(out)
            for row in range(chunk * CHUNK_ROWS, (chunk + 1) * CHUNK_ROWS)
        ]
        before = {row: hits[f"/{row}"] for row in done}
    interrupted.check(out)
    assert done and {row: hits[f"/{row}"] for row in done} == before, "done work was done again"


def test_killed_at_any_moment_it_comes_to_the_same_bytes(interrupted: Interrupted) -> None:
    interrupted.kill_at(A_FEW)
    kill_downloads(interrupted, [700])  # chunks are complete then, however busy the machine is


@pytest.mark.slow
@pytest.mark.parametrize("phase", MOMENTS)
def test_killed_at_many_moments_it_comes_to_the_same_bytes(interrupted: Interrupted, phase: str) -> None:
    assert len(MOMENTS[phase]) >= 10
    interrupted.kill_at(MOMENTS[phase])


@pytest.mark.slow
def test_killed_in_many_downloads_it_comes_to_the_same_bytes(interrupted: Interrupted) -> None:
    kill_downloads(interrupted, range(2, 242, 20))
