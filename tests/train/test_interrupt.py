"""Which signals end a run, and which repeat what was asked before."""

import os
import signal
import time
from pathlib import Path

import pytest

from clipkit.train.interrupt import Interruption
from tests.processes import children_of, living, until, workers_of
from tests.train.commands import TWO, steps, training


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGINT, signal.SIGINT), (signal.SIGUSR1, signal.SIGTERM), (signal.SIGTERM, signal.SIGTERM)],
    ids=["terminal-and-launcher", "slurm", "launcher-and-slurm"],
)
def test_what_launchers_repeat_changes_nothing(numbers: tuple[int, int]) -> None:
    with Interruption() as interruption:
        for number in numbers:
            signal.raise_signal(number)
        assert interruption.number == numbers[0]
        with pytest.raises(KeyboardInterrupt), interruption.ending_waits():
            pytest.fail("it waits")


def test_a_second_ctrl_c_by_hand_ends_at_once() -> None:
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        time.sleep(1.1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interruption.number == signal.SIGINT


@pytest.mark.slow
@pytest.mark.parametrize("hindered", [False, True], ids=["trains", "waits-for-a-batch"])
def test_a_signal_to_one_process_ends_all_with_a_checkpoint(
    small_dataset: Path, tmp_path: Path, hindered: bool
) -> None:
    words = "--batch-size 120 --samples-seen 9000000"
    with training(small_dataset, tmp_path, *words.split(), launcher=TWO) as process:
        until(lambda: steps(tmp_path) > 2, "it trains")
        ranks = [rank for rank in children_of(process.pid) if workers_of(rank)]
        assert len(ranks) == 2
        if hindered:
            for worker in workers_of(ranks[1]):
                os.kill(worker, signal.SIGSTOP)
            until(lambda: _stands(tmp_path), "it waits for them")
        os.kill(ranks[1], signal.SIGUSR1)
        _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    trained = steps(tmp_path)
    said = [line for line in errors.splitlines() if line.startswith("clipkit: stopped after step")]
    assert said and {line.split(";")[0] for line in said} == {f"clipkit: stopped after step {trained}"}
    assert (tmp_path / "run" / "checkpoints" / f"step_{trained}.pt").exists()
    until(lambda: not any(map(living, ranks)), "all end")


def _stands(runs: Path) -> bool:
    before = steps(runs)
    time.sleep(3)
    return steps(runs) == before
