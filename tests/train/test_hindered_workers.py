"""`clipkit train` whose loader processes are stopped, killed, or lack memory to hand their batches over."""

import os
import signal
from pathlib import Path

import pytest

from clipkit.model.checkpoint import load_checkpoint
from clipkit.train.run_directory import RunDirectory
from tests.processes import children_of, living, until, wait_until_gone, with_shared_memory, workers_of
from tests.train.commands import TWO, steps, training


@pytest.mark.slow
def test_ctrl_c_ends_a_run_that_waits_for_a_stopped_worker(small_dataset: Path, tmp_path: Path) -> None:
    with training(small_dataset, tmp_path, "--batch-size", "120", "--samples-seen", "9000000") as process:
        until(lambda: steps(tmp_path), "it trains")
        for worker in workers_of(process.pid):
            os.kill(worker, signal.SIGSTOP)
        until(lambda: _stands(tmp_path), "it waits for them")
        trained = steps(tmp_path)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        last = errors.splitlines()[-1]
        assert last.startswith(f"clipkit: stopped after step {trained}; ") and "Traceback" not in errors
        assert (tmp_path / "run" / "checkpoints" / f"step_{trained}.pt").exists()
        wait_until_gone(process.pid)


def checkpoint_at_the_end(runs: Path) -> Path:
    """The newest checkpoint, which is of the last step that was logged, or of one after it."""
    run = RunDirectory(runs / "run")
    newest = run.latest()
    assert newest is not None
    assert load_checkpoint(newest).step >= steps(runs) > 0
    return newest


def _stands(runs: Path) -> bool:
    before = steps(runs)
    try:
        until(lambda: steps(runs) > before, "another step", seconds=3)
    except AssertionError:
        return True
    return False


@pytest.mark.slow
def test_a_killed_worker_ends_the_command_with_one_line(small_dataset: Path, tmp_path: Path) -> None:
    with training(small_dataset, tmp_path, "--batch-size", "120", "--samples-seen", "9000000") as process:
        until(lambda: steps(tmp_path), "it trains")
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        printed, errors = process.communicate(timeout=120)
        assert (process.returncode, printed) == (1, "")
        last = errors.splitlines()[-1]
        assert last.startswith("clipkit: a loader process died, ") and "--workers" in last
        assert last.endswith(f"what was trained until then is in {checkpoint_at_the_end(tmp_path)}")
        assert "Traceback" not in errors
        wait_until_gone(process.pid)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["8k", "1m", "5m"])
def test_too_little_shared_memory_is_one_line(small_dataset: Path, tmp_path: Path, memory: str) -> None:
    """Containers have 64 MB by default. A batch has 1.6 MB; in 5 MB it is captions that find no room,
    in 8 kB the locks of the first worker.
    """
    words, before = ("--batch-size", "512", "--samples-seen", "90000"), with_shared_memory(memory)
    with training(small_dataset, tmp_path, *words, before=before) as process:
        printed, errors = process.communicate(timeout=120)
        assert (process.returncode, printed) == (1, "")
        last = errors.splitlines()[-1]
        assert last.startswith("clipkit: /dev/shm: expected room for the workers' batches, found ")
        assert "Traceback" not in errors
        wait_until_gone(process.pid)


@pytest.mark.slow
def test_a_run_whose_process_lost_a_loader_ends_beside_torchrun(small_dataset: Path, tmp_path: Path) -> None:
    """The first process says that it lost another, torchrun shows below what each of them had to say."""
    words = "--batch-size 120 --samples-seen 9000000"
    with training(small_dataset, tmp_path, *words.split(), launcher=TWO) as process:
        until(lambda: steps(tmp_path), "it trains")
        ranks = [rank for rank in children_of(process.pid) if workers_of(rank)]
        assert len(ranks) == 2
        os.kill(workers_of(ranks[1])[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    (said,) = (line for line in errors.splitlines() if line.startswith("clipkit: "))
    assert said.startswith("clipkit: process 0 of 2: another one has ended: mend what its last line says")
    assert "traceback : clipkit: a loader process died, " in errors
    assert f"what was trained until then is in {checkpoint_at_the_end(tmp_path)}" in errors
    assert "[rank" not in errors, "a traceback of ours, as torch shows it; torchrun has one of its own"
    until(lambda: not any(map(living, ranks)), "all end")
