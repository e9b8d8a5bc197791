"""`clipkit train` that starts the processes of a run itself."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.launched import LAUNCHER
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.distributed import processes_to_start
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory
from tests.processes import children_of, living, until
from tests.train.commands import TWO, losses, steps, training

ENDLESS = ("--batch-size", "120", "--samples-seen", "9000000")
WITHOUT_GPUS = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


@pytest.mark.slow
@WITHOUT_GPUS
def test_two_processes_are_the_run_of_one_and_speak_once(tiny_dataset: Path, tmp_path: Path) -> None:
    words = "--batch-size 16 --epochs 2 --workers 1 --processes 2 --json"
    with training(tiny_dataset, tmp_path / "two", *words.split()) as process:
        printed, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert json.loads(printed)["steps"] == 8
    warning, *shown = errors.splitlines()
    assert warning.startswith("training on the CPU, which takes many times as long")
    assert all(line.startswith("train: ") for line in shown)
    assert shown[-1].startswith("train: 128 of 128 samples")
    assert warning in (tmp_path / "two" / "run" / "out.log").read_text()
    config = TrainConfig(model="ViT-Micro/16@32px", batch_size=16, epochs=2, lr=1e-3, log_every=1, workers=0)
    train(config, ShardSet(tiny_dataset), RunDirectory(tmp_path / "one" / "run"), device="cpu")
    two, one = (dict(losses(tmp_path / each)) for each in ("two", "one"))
    assert two == pytest.approx(one, rel=1e-5)  # float32 sums in another order, seven steps long


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)]
)
def test_a_signal_to_the_command_ends_all_after_the_step(
    small_dataset: Path, tmp_path: Path, number: int, exit_code: int
) -> None:
    with training(small_dataset, tmp_path, *ENDLESS, "--processes", "2") as process:
        until(lambda: steps(tmp_path), "it trains", seconds=200)
        ranks = children_of(process.pid)
        process.send_signal(number)
        printed, errors = process.communicate(timeout=120)
    assert (process.returncode, printed) == (exit_code, "")
    last = steps(tmp_path)
    checkpoint = tmp_path / "run" / "checkpoints" / f"step_{last}.pt"
    *_, said = errors.splitlines()
    assert (
        said == f"clipkit: stopped after step {last}; {checkpoint} is written: run the same command to go on"
    )
    assert errors.count("clipkit: ") == 1 and "Traceback" not in errors
    assert torch.load(checkpoint, weights_only=True)["step"] == last
    assert len(ranks) == 2
    until(lambda: not any(map(living, ranks)), "all end")


@pytest.mark.slow
def test_a_second_ctrl_c_ends_processes_that_hang_at_once(small_dataset: Path, tmp_path: Path) -> None:
    with training(small_dataset, tmp_path, *ENDLESS, "--processes", "2") as process:
        until(lambda: steps(tmp_path), "it trains", seconds=200)
        ranks = children_of(process.pid)
        for rank in ranks:
            subprocess.run(["kill", "-STOP", str(rank)], check=True)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith(
        "clipkit: ended at once, at the second signal: the same command"
    )
    until(lambda: not any(map(living, ranks)), "all end")


@pytest.mark.slow
@WITHOUT_GPUS
def test_a_fault_that_all_processes_meet_is_told_once(tiny_dataset: Path, tmp_path: Path) -> None:
    words = "--batch-size 16 --epochs 2 --processes 4 --workers 0"
    with training(tmp_path / "nothing", tmp_path, *words.split()) as process:
        printed, errors = process.communicate(timeout=200)
    assert (process.returncode, printed) == (1, "")
    (line,) = errors.splitlines()
    assert line.startswith(f"clipkit: {tmp_path / 'nothing'}: ")
    with training(tiny_dataset, tmp_path, *words.split(), "--schedule", "constant", "--lr", "100") as process:
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    assert errors.count("clipkit: ") == 1 and errors.splitlines()[-1].startswith(
        "clipkit: the loss is nan at step "
    )


def test_a_batch_that_processes_cannot_share_is_refused_before_they_start(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    words = "--batch-size 16 --processes 3"
    with training(tiny_dataset, tmp_path, *words.split()) as process:
        printed, errors = process.communicate(timeout=100)
    assert (process.returncode, printed) == (1, "")
    assert errors == (
        "clipkit: batch size 16 is not a multiple of the 3 processes: choose --batch-size 15 or 18, "
        "or another number with --processes\n"
    )
    assert not (tmp_path / "run").exists()


@WITHOUT_GPUS
def test_without_a_gpu_and_a_wish_there_is_one_process() -> None:
    assert processes_to_start(None) == 1
    assert processes_to_start(4) == 4


def test_a_process_that_a_launcher_started_starts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert processes_to_start(2) == 1
    assert processes_to_start(None) == 1
    with pytest.raises(ConfigError, match="--processes 3 in a command that a launcher has started 2 times"):
        processes_to_start(3)


@pytest.mark.slow
def test_beside_torchrun_the_command_starts_no_processes(tiny_dataset: Path, tmp_path: Path) -> None:
    words = "--batch-size 16 --epochs 1 --workers 0 --json"
    with training(tiny_dataset, tmp_path, *words.split(), launcher=TWO) as process:
        printed, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert json.loads(printed)["steps"] == 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_two_and_four_processes_have_the_same_losses(small_dataset: Path, tmp_path: Path) -> None:
    found = []
    for processes in ("1", "2", "4"):
        words = f"--batch-size 64 --samples-seen 2560 --workers 1 --processes {processes}"
        with training(small_dataset, tmp_path / processes, *words.split()) as process:
            _, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors
        found.append(dict(losses(tmp_path / processes)))
    assert len(found[0]) == 40
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-6)


@pytest.mark.slow
def test_the_environment_of_the_command_is_left_as_it_was(tmp_path: Path) -> None:
    program = (
        "import os, sys; from clipkit.train.launch import launch; before = dict(os.environ)\n"
        "if 'RANK' in os.environ: sys.exit(0 if 'CLIPKIT_LAUNCHER' in os.environ else 3)\n"
        "launch(2, 'again'); assert dict(os.environ) == before"
    )
    script = tmp_path / "a $$ script.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, ""), LAUNCHER
