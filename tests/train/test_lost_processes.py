"""Runs of several processes: one is killed, stopped, or cannot go on; or what started them is gone."""

import os
import signal
from pathlib import Path

import pytest

from tests.processes import children_of, until, workers_of
from tests.train.commands import losses, steps, training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TWO = ("--processes", "2", "--batch-size", "120")
ENDLESS = (*TWO, "--samples-seen", "9000000")
SHORT = (*TWO, "--samples-seen", "4800", "--save-every", "600")


def loaders(ranks: list[int]) -> list[int]:
    return [worker for rank in ranks for worker in workers_of(rank)]


def gone(processes: list[int]) -> bool:
    return not any(Path(f"/proc/{each}").exists() for each in processes)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_run_and_the_same_command_goes_on(
    small_dataset: Path, tmp_path: Path, rank: int
) -> None:
    with training(small_dataset, tmp_path / "whole", *SHORT) as process:
        assert process.wait(timeout=250) == 0
    with training(small_dataset, tmp_path, *SHORT) as process:
        until(lambda: steps(tmp_path) > 7, "it trains", seconds=200)
        ranks = children_of(process.pid)
        started = loaders(ranks)
        os.kill(ranks[rank], signal.SIGKILL)
        printed, errors = process.communicate(timeout=60)
    assert (process.returncode, printed) == (1, "")
    assert errors.splitlines()[-1] == (
        f"clipkit: process {rank} of 2 was killed by SIGKILL, as the system does when memory runs out, "
        "and all were ended: mend the cause; the same command goes on from the last checkpoint"
    )
    assert errors.count("clipkit: ") == 1 and "Traceback" not in errors
    assert len(ranks) == 2 and len(started) == 4
    until(lambda: gone(ranks + started), "all end")
    with training(small_dataset, tmp_path, *SHORT) as process:
        _, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    assert "run goes on after step" in errors
    assert losses(tmp_path) == losses(tmp_path / "whole")


def test_a_process_that_hangs_ends_the_run_when_the_time_is_up(small_dataset: Path, tmp_path: Path) -> None:
    with training(small_dataset, tmp_path, *ENDLESS, "--timeout", "5") as process:
        until(lambda: steps(tmp_path), "it trains", seconds=200)
        ranks = children_of(process.pid)
        os.kill(ranks[1], signal.SIGSTOP)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith(
        "clipkit: process 1 of 2 hung and was ended; process 0 of 2: waited 5 s for another process, which "
    )
    assert errors.count("clipkit: ") == 1 and "Traceback" not in errors
    until(lambda: gone(ranks), "all end")


def test_processes_end_with_the_command_that_started_them(small_dataset: Path, tmp_path: Path) -> None:
    with training(small_dataset, tmp_path, *ENDLESS) as process:
        until(lambda: steps(tmp_path), "it trains", seconds=200)
        ranks = children_of(process.pid)
        started = loaders(ranks)
        process.kill()
        until(lambda: gone(ranks + started), "all end")
        _, errors = process.communicate(timeout=60)
    assert errors.splitlines()[-1] == (
        "clipkit: what started this process is gone, so it ends: run the same command again"
    )
    assert len(ranks) == 2 and len(started) == 4


def test_what_one_process_alone_meets_ends_all_with_its_line(small_dataset: Path, tmp_path: Path) -> None:
    with training(small_dataset, tmp_path, *ENDLESS) as process:
        until(lambda: steps(tmp_path), "it trains", seconds=200)
        ranks = children_of(process.pid)
        os.kill(workers_of(ranks[1])[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("clipkit: a loader process died, ")
    assert errors.count("clipkit: ") == 1 and "Traceback" not in errors
    until(lambda: gone(ranks), "all end")


def test_another_command_of_the_same_run_is_refused_in_one_line(small_dataset: Path, tmp_path: Path) -> None:
    with training(small_dataset, tmp_path, *ENDLESS) as process:
        until(lambda: steps(tmp_path), "it trains", seconds=200)
        with training(small_dataset, tmp_path, *ENDLESS) as other:
            _, errors = other.communicate(timeout=250)
        assert other.returncode == 1
        assert errors == (f"clipkit: {tmp_path / 'run'}: another process is training this run: wait for it\n")
        assert process.poll() is None
