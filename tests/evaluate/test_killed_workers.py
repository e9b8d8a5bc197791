"""`clipkit evaluate` whose decoding processes, or which itself, is killed or hindered within a set."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipkit.model.checkpoint import Checkpoint, save_checkpoint
from clipkit.model.clip import build
from clipkit.model.config import named_config
from tests.processes import in_a_session, until, wait_until_gone, with_shared_memory, workers_of
from tests.serving import encoded, photo

MICRO = named_config("ViT-Micro/16@32px")
EARLIER = b'{"kind": "zero-shot", "set": "earlier"}\n'


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """An evaluation in the folder `tmp_path`."""
    dumped = MICRO.model_dump(mode="json")
    save_checkpoint(tmp_path / "micro.pt", Checkpoint(0, "micro", build(MICRO, seed=0).state_dict(), dumped))
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    for number in range(400):
        (tmp_path / "pets" / "cat" / f"{number:03}.jpg").write_bytes(encoded(photo(60, 60, number)))
    (tmp_path / "classes.csv").write_text("folder,names\ncat,cat\n")
    (tmp_path / "results.jsonl").write_bytes(EARLIER)
    words = "--checkpoint micro.pt --folder pets --classes classes.csv --workers 2 --batch-size 4"
    return [sys.executable, "-m", "clipkit", "evaluate", *words.split()]


@pytest.fixture
def evaluation(tmp_path: Path, command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """An evaluation of some hundred batches."""
    with in_a_session(command, tmp_path) as process:
        yield process


def stopped_worker(evaluation: "subprocess.Popen[str]") -> int:
    """The first process that decodes, stopped within the set: the evaluation waits for its batches."""
    until(lambda: len(workers_of(evaluation.pid)) == 2, "both workers begin")  # the first has its orders
    worker = min(workers_of(evaluation.pid))
    os.kill(worker, signal.SIGSTOP)
    return worker


def test_a_killed_worker_ends_the_command_with_one_line(
    evaluation: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    os.kill(stopped_worker(evaluation), signal.SIGKILL)
    printed, errors = evaluation.communicate(timeout=120)
    assert (evaluation.returncode, printed) == (1, "")
    last = errors.splitlines()[-1]
    assert last.startswith("clipkit: a process that decodes pictures died, ") and "--workers" in last
    assert "Traceback" not in errors
    assert (tmp_path / "results.jsonl").read_bytes() == EARLIER
    wait_until_gone(evaluation.pid)


def test_the_workers_end_with_the_command_that_is_killed(
    evaluation: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    worker = stopped_worker(evaluation)
    evaluation.kill()
    evaluation.wait()
    os.kill(worker, signal.SIGCONT)
    wait_until_gone(evaluation.pid)
    assert (tmp_path / "results.jsonl").read_bytes() == EARLIER


def test_ctrl_c_ends_a_command_whose_worker_is_stopped(
    evaluation: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    stopped_worker(evaluation)
    evaluation.send_signal(signal.SIGINT)
    evaluation.communicate(timeout=60)
    assert evaluation.returncode in (130, -signal.SIGINT)
    wait_until_gone(evaluation.pid)
    assert (tmp_path / "results.jsonl").read_bytes() == EARLIER


def test_too_little_shared_memory_is_one_line(command: list[str], tmp_path: Path) -> None:
    words = [*with_shared_memory("120k"), *command, "--batch-size", "40"]  # 123 kB of pixels
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout) == (1, "")
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("clipkit: /dev/shm: expected room for the workers' batches, found ")
    assert "Traceback" not in ran.stderr
    assert (tmp_path / "results.jsonl").read_bytes() == EARLIER
