"""`clipkit evaluate` whose decoding processes, or which itself, is killed or hindered within a set."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from clipkit.model.checkpoint import Checkpoint, save_checkpoint
from clipkit.model.clip import build
from clipkit.model.config import named_config
from tests.processes import in_a_session, living, until, wait_until_gone, with_shared_memory
from tests.serving import encoded, photo

MICRO = named_config("ViT-Micro/16@32px")
EARLIER = b'{"kind": "zero-shot", "set": "earlier"}\n'


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """An evaluation in the folder `tmp_path`."""
    dumped = MICRO.model_dump(mode="json")
    save_checkpoint(tmp_path / "micro.pt", Checkpoint(0, "micro", build(MICRO, seed=0).state_dict(), dumped))
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    for number in range(40):
        (tmp_path / "pets" / "cat" / f"{number:02}.jpg").write_bytes(encoded(photo(60, 60, number)))
    (tmp_path / "classes.csv").write_text("folder,names\ncat,cat\n")
    (tmp_path / "results.jsonl").write_bytes(EARLIER)
    words = "--checkpoint micro.pt --folder pets --classes classes.csv --workers 2 --batch-size 4"
    return [sys.executable, "-m", "clipkit", "evaluate", *words.split()]


@pytest.fixture
def evaluation(tmp_path: Path, command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """An evaluation of which one worker waits for the content of a picture: that is a pipe."""
    os.mkfifo(tmp_path / "pets" / "cat" / "20.png")
    with in_a_session(command, tmp_path) as process:
        yield process


@contextmanager
def held(pipe: Path, session: int) -> Iterator[int]:
    """Keep the process of the session that reads `pipe` waiting for content; yield which it is."""
    writers: list[int] = []
    readers: list[int] = []

    def open_to_write() -> bool:
        with suppress(OSError):  # nobody reads it yet
            writers.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    def find_reader() -> bool:
        for entry in (entry for pid in living(session) for entry in Path(f"/proc/{pid}/fd").iterdir()):
            with suppress(FileNotFoundError):
                if entry.readlink() == pipe:
                    readers.append(int(entry.parts[2]))
        return bool(readers)

    until(open_to_write, "a worker opens the pipe")
    until(find_reader, "a worker reads the pipe")
    try:
        yield readers[0]
    finally:
        os.close(writers[0])


def test_a_killed_worker_ends_the_command_with_one_line(
    evaluation: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    with held(tmp_path / "pets" / "cat" / "20.png", evaluation.pid) as worker:
        assert worker != evaluation.pid
        os.kill(worker, signal.SIGKILL)
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
    with held(tmp_path / "pets" / "cat" / "20.png", evaluation.pid):
        assert len(living(evaluation.pid)) > 2
        evaluation.kill()
        evaluation.wait()
        wait_until_gone(evaluation.pid)
    assert (tmp_path / "results.jsonl").read_bytes() == EARLIER


def test_ctrl_c_ends_a_command_whose_worker_is_stopped(
    evaluation: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    with held(tmp_path / "pets" / "cat" / "20.png", evaluation.pid) as worker:
        os.kill(worker, signal.SIGSTOP)
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
