"""What is said of processes that failed: torchrun's own records of them, and ours within."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from clipkit import launched
from clipkit.errors import DatasetError, TrainError
from clipkit.launched import LAUNCHER, fail
from clipkit.train.distributed import ProcessHangsError, ProcessLostError
from clipkit.train.endings import ProcessesFailedError, raise_ending
from clipkit.train.interrupt import TrainInterrupted

LOST, HANGS, OWN = ProcessLostError.__name__, ProcessHangsError.__name__, DatasetError.__name__


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.delenv(LAUNCHER, raising=False)
    return monkeypatch


def failures(
    folder: Path, rank: pytest.MonkeyPatch, *told: tuple[int, str, str]
) -> dict[int, ProcessFailure]:
    """Of each process its exit code, and the line and kind of what it told, which may be none."""
    rank.setenv(LAUNCHER, str(os.getpid()))
    found = {}
    for number, (code, line, kind) in enumerate(told):
        path = folder / f"{number}.json"
        rank.setenv("TORCHELASTIC_ERROR_FILE", str(path))
        if kind:
            fail(f"clipkit: {line}", kind, code)
        found[number] = ProcessFailure(number, 4000 + number, code, str(path))
    return found


def ending(folder: Path, rank: pytest.MonkeyPatch, *told: tuple[int, str, str], asked: int = 0) -> TrainError:
    with pytest.raises(ProcessesFailedError) as raised:
        raise_ending(failures(folder, rank, *told), len(told), asked, at_once=False, remedy="go on")
    return raised.value


def test_a_fault_is_told_before_those_that_follow_from_it(rank: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = ending(tmp_path, rank, (1, "it broke", LOST), (-15, "", ""), (1, "a shard is bad", OWN))
    assert (str(found), found.exit_code) == ("a shard is bad", 1)


def test_of_several_faults_the_first_is_told(rank: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert str(ending(tmp_path, rank, (1, "first", OWN), (1, "second", OWN))) == "first"


def test_an_interrupted_run_has_the_exit_code_of_its_processes(
    rank: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = (143, "stopped after step 3", TrainInterrupted.__name__)
    found = ending(tmp_path, rank, told, (-15, "", ""), asked=signal.SIGTERM)
    assert (str(found), found.exit_code) == ("stopped after step 3", 143)


def test_processes_interrupted_before_they_train_say_nothing(
    rank: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as raised:
        found = failures(tmp_path, rank, (130, "", ""), (-2, "", ""))
        raise_ending(found, 2, signal.SIGINT, at_once=False, remedy="go on")
    assert raised.value.code == 130


def test_a_killed_process_is_named_not_those_that_lost_it(rank: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = ending(tmp_path, rank, (1, "it broke", LOST), (-9, "", ""), (-15, "", ""))
    assert str(found).startswith("process 1 of 3 was killed by SIGKILL, as the system does when memory")
    assert str(found).endswith("mend the cause; go on")


def test_a_process_that_hung_until_the_agent_killed_it_is_named(
    rank: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = ending(tmp_path, rank, (1, "process 0 of 3: waited 5 s", HANGS), (-9, "", ""), (1, "lost", LOST))
    assert str(found) == "process 1 of 3 hung and was ended; process 0 of 3: waited 5 s"


def test_a_process_that_ended_with_a_traceback_is_named(rank: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = ending(tmp_path, rank, (1, "it broke", LOST), (1, "", ""))
    assert str(found).startswith("process 1 of 2 ended with exit code 1, and all were ended: what it printed")


def test_without_failures_there_is_nothing_to_say() -> None:
    raise_ending({}, 2, 0, at_once=False, remedy="go on")


@pytest.mark.parametrize(
    ("own", "local_rank", "speaks"), [(True, "0", False), (False, "0", True), (False, "1", False)]
)
def test_one_process_of_a_machine_speaks_beside_torchrun_and_none_beside_our_launcher(
    rank: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own: bool, local_rank: str, speaks: bool
) -> None:
    rank.setenv("LOCAL_RANK", local_rank)
    if own:
        rank.setenv(LAUNCHER, f"{os.getppid()}")
    fail("clipkit: a line", OWN, 1)
    assert capsys.readouterr().err == ("clipkit: a line\n" if speaks else "")
    record = json.loads(Path(os.environ["TORCHELASTIC_ERROR_FILE"]).read_text())
    assert record["message"]["message"] == "clipkit: a line"


@pytest.mark.parametrize("local_rank", ["0", "1"])
def test_what_breaks_since_the_launcher_is_gone_is_told_as_that_once(
    rank: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], local_rank: str
) -> None:
    rank.setenv(LAUNCHER, f"{os.getpid()}")  # which is not this process's parent
    rank.setenv("LOCAL_RANK", local_rank)
    rank.setattr(launched, "_TELLING", threading.Lock())
    for _ in range(2):
        fail("clipkit: the connection broke", LOST, 1)
    said = "clipkit: what started this process is gone, so it ends: run the same command again\n"
    assert capsys.readouterr().err == (said if local_rank == "0" else "")


@pytest.mark.parametrize("path", ["", "nowhere/error.json"])
def test_a_process_whose_launcher_cannot_be_told_speaks_itself(
    rank: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, path: str
) -> None:
    rank.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / path) if path else "")
    fail("clipkit: a line", OWN, 1)
    assert capsys.readouterr().err == "clipkit: a line\n"
