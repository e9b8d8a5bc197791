"""Derivations that are ended at exact moments, or have no room, go on and come to the same bytes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clipkit.errors import DatasetError
from clipkit.shards.shard_set import ShardSet
from tests.conftest import WriteDataset
from tests.datasets import contents
from tests.ingest.interrupting import Moment, ended, started
from tests.processes import until

WHERE = "source_row % 7 <> 0"
# As the command, but the index is replaced for every shard, not only every few seconds.
PROGRAM = """
import sys
from clipkit import cli
from clipkit.shards import derive
derive.COMMIT_SECONDS = 0.0
sys.argv[0] = "clipkit"
cli.main()
"""
MOMENTS = [
    Moment(calls, path, number, before)
    for calls, path, numbers in [
        ("mkdir", "/new$", [1]),
        ("replace", r"/\.dataset\.json", [1, 2]),
        ("open", r"/\.00000[012]\.tar", [1, 2, 3]),
        ("fsync", r"/\.000001\.tar", [1]),
        ("replace", r"/\.00000[012]\.tar", [1, 2, 3]),
        ("replace", r"/\.00000[012]\.parquet", [1, 2, 3]),
        ("replace", r"/\.index\.parquet", [1, 2, 3, 4]),
        ("replace", r"/\.sizes\.json", [1]),
    ]
    for number in numbers
    for before in (True, False)
]


def words(original: Path, out: Path | str, *more: str) -> list[str]:
    return ["-c", PROGRAM, "shards", "filter", str(original), "--out", str(out), "--where", WHERE, *more]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, write_dataset: WriteDataset) -> Path:
    return write_dataset(tmp_path_factory.mktemp("original") / "old", 2700, 900)


@pytest.fixture(scope="module")
def expected(original: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected") / "new"
    code, _, errors = ended(started(words(original, out), out.parent))
    assert code == 0, errors
    assert len(ShardSet(out).sizes) == 3
    return contents(out)


def busy_seconds(process: int) -> float:
    """The CPU time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def assert_refused(out: Path) -> None:
    with pytest.raises(DatasetError):
        ShardSet(out)


def kill_at(moments: list[Moment], original: Path, folder: Path, expected: dict[str, bytes]) -> None:
    """Kill a derivation at each moment, the same one as long as it has not come to its end before."""
    number = 0
    for moment in moments:
        for _ in range(2):
            out = folder / f"{number}" / "new"
            out.parent.mkdir(exist_ok=True)
            code, _, errors = ended(started(words(original, out), folder, moment))
            assert code in (0, -signal.SIGKILL), errors
            if code:
                break
            assert contents(out) == expected
            number += 1
        assert code == -signal.SIGKILL, moment
        if "dataset" not in moment.path or moment.number == 1:
            assert_refused(out)
    code, _, errors = ended(started(words(original, out), folder))
    assert code == 0, errors
    assert contents(out) == expected


def test_killed_at_some_moments(original: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    kill_at(MOMENTS[8::13], original, tmp_path, expected)


@pytest.mark.slow
def test_killed_at_many_moments(original: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    kill_at(MOMENTS, original, tmp_path, expected)


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_a_signal_ends_it_and_it_goes_on(
    original: Path, expected: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "new"
    moment = Moment("replace", r"/\.000001\.parquet")
    code, output, errors = ended(started(words(original, out, "--json"), tmp_path, moment, name))
    assert (code, output) == (128 + signal.Signals[name], ""), errors
    assert "Traceback" not in errors and not list(out.glob("*.tmp"))
    assert_refused(out)
    code, output, errors = ended(started(words(original, out, "--json"), tmp_path))
    assert code == 0 and "going on" in errors and json.loads(output)["written"][0]["samples"] == 2314
    assert contents(out) == expected


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_a_signal_ends_a_long_condition(original: Path, tmp_path: Path, name: str) -> None:
    slow = "levenshtein(repeat(caption, 80), repeat(url, 80)) > 0"
    process = started([*words(original, tmp_path / "new")[:-1], slow], tmp_path)
    try:
        until(lambda: busy_seconds(process.pid) > 2, "the engine is at work")
        process.send_signal(signal.Signals[name])
        code, output, errors = ended(process)
    finally:
        process.kill()
    assert (code, output) == (128 + signal.Signals[name], "") and "Traceback" not in errors, errors
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(Moment("open", r"/\.000000\.tar"), marks=pytest.mark.slow),
        Moment("open", r"/\.000001\.tar"),
        pytest.param(Moment("replace", r"/\.000000\.tar", before=False), marks=pytest.mark.slow),
        pytest.param(Moment("replace", r"/\.sizes\.json", before=False), marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_told_in_one_line(
    write_dataset: WriteDataset, tiny_disk: Path, tmp_path: Path, moment: Moment
) -> None:
    small = write_dataset(tmp_path / "old", 1300, 900)
    code, _, errors = ended(started(words(small, tmp_path / "new"), tmp_path))
    assert code == 0, errors
    out = tiny_disk / "new"
    code, output, errors = ended(started(words(small, out, "--json"), tiny_disk, moment, "FILL"))
    told = [line for line in errors.splitlines() if line.startswith("clipkit: ")]
    assert (code, output, len(told)) == (1, "", 1) and "No space left on device" in told[0], errors
    assert not list(out.glob(".*.tmp"))
    assert_refused(out)
    (tiny_disk / "blocker").unlink()
    code, _, errors = ended(started(words(small, out), tmp_path))
    assert code == 0, errors
    assert contents(out) == contents(tmp_path / "new")


def test_a_second_one_is_refused_meanwhile(original: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    process = started(words(original, out), tmp_path, Moment("replace", r"/\.000001\.tar"), "SIGSTOP")
    while not (tmp_path / "deeds").exists():
        assert process.poll() is None
    try:
        command = [sys.executable, "-m", "clipkit", *words(original, out)[2:]]
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == 1 and "another process is writing it" in second.stderr
    finally:
        process.send_signal(signal.SIGCONT)
    assert ended(process)[0] == 0
