"""Runs that are killed at random moments, and go on: with the same numbers, and with the same samples."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from clipkit.train.config import TrainConfig
from clipkit.train.run_directory import RunDirectory
from tests.processes import children_of, in_a_session, living, until
from tests.train.test_run import CONFIG, assert_same_run, child_command, lines

# 64 samples: with a batch of 12, 3 epochs are 16 steps; with one of 16, 12.
CONFIGS = {
    "vit": CONFIG.model_copy(
        update={
            "color_jitter": (0.4, 0.4, 0.4, 0.1),
            "gray_scale_probability": 0.2,
            "workers": 2,
            "save_every": 24,
        }
    ),
    "coarse": CONFIG.model_copy(update={"log_every": 3, "accumulate": 2, "save_every": 24}),
    "resnet": CONFIG.model_copy(
        update={"model": "RN-Mini@64px", "batch_size": 16, "accumulate": 2, "save_every": 32}
    ),
    "synchronised": CONFIG.model_copy(
        update={"model": "RN-Mini@64px", "batch_size": 16, "sync_batch_norm": True, "save_every": 32}
    ),
}
KILLS = 3


@contextmanager
def sitting(
    processes: int, dataset: Path, path: Path, config: TrainConfig, place: str = "none", count: int = 1
) -> "Iterator[subprocess.Popen[str]]":
    command = child_command(dataset, path, config, place, count)
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
        command = [sys.executable, *launcher, *command[1:]]
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_a_session(command) as process:
        yield process


def finish(processes: int, dataset: Path, path: Path, config: TrainConfig) -> None:
    with sitting(processes, dataset, path, config) as process:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors


def kill(processes: int, dataset: Path, path: Path, config: TrainConfig, dice: random.Random) -> None:
    """Begin or go on, and end all processes, or one of several, soon after some step."""
    with sitting(processes, dataset, path, config) as process:
        more = dice.randrange(2, 6) if config.log_every == 1 else dice.randrange(1, 3)
        pause, one = dice.uniform(0, 0.4), dice.random() < 0.3
        log = path / "out.log"
        begun = log.read_text().count(": loss ") if log.exists() else 0
        while process.poll() is None and (
            not log.exists() or log.read_text().count(": loss ") < begun + more
        ):
            time.sleep(0.005)
        time.sleep(pause)
        ranks = children_of(process.pid) if processes > 1 else []
        if one and ranks:
            os.kill(dice.choice(ranks), signal.SIGKILL)
            process.wait(timeout=120)  # the others end by themselves
        else:
            for pid in {process.pid, *ranks, *living(process.pid)}:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(living, ranks)), "all end")


def trained_on(path: Path) -> dict[int, list[tuple[int, str]]]:
    """The samples of each step, in the order of the ranks; they are the same however often it was begun."""
    found: dict[tuple[int, int, int], Any] = {}
    for file in path.parent.glob(f"{path.name}.*.samples"):
        rank = int(file.suffixes[-2][1:])
        for text in file.read_text().splitlines():
            step, processes, samples = json.loads(text)
            assert found.setdefault((processes, step, rank), samples) == samples
    steps: dict[int, list[tuple[int, str]]] = {}
    for processes, step in sorted({key[:2] for key in found}):
        keys = [(processes, step, rank) for rank in range(processes)]
        if all(key in found for key in keys):
            whole = [tuple(sample) for key in keys for sample in found[key]]
            assert steps.setdefault(step, whole) == whole, (processes, step)
    return dict(sorted(steps.items()))


def check(label: str, processes: Sequence[int], dataset: Path, folder: Path, seed: int) -> tuple[Path, Path]:
    config, dice = CONFIGS[label], random.Random(seed)
    whole, path = folder / "whole" / "run", folder / "killed" / "run"
    finish(processes[0], dataset, whole, config)
    for number in range(KILLS):
        kill(processes[number % len(processes)], dataset, path, config, dice)
    finish(processes[KILLS % len(processes)], dataset, path, config)
    steps = list(range(192 // config.batch_size))
    assert [*trained_on(whole)] == [*trained_on(path)] == steps
    assert trained_on(whole) == trained_on(path)
    assert (path / "out.log").read_text().count("goes on after step") >= 1
    return whole, path


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("label", ["vit", "coarse", "resnet"])
def test_one_process_killed_at_random(label: str, seed: int, tiny_dataset: Path, tmp_path: Path) -> None:
    whole, path = check(label, [1], tiny_dataset, tmp_path, seed)
    assert_same_run(path, whole)


@pytest.mark.parametrize("label", ["vit", "resnet", "synchronised"])
def test_two_processes_killed_at_random(label: str, tiny_dataset: Path, tmp_path: Path) -> None:
    whole, path = check(label, [2], tiny_dataset, tmp_path, 2)
    assert_same_run(path, whole)


def test_another_number_of_processes_goes_on_with_them(tiny_dataset: Path, tmp_path: Path) -> None:
    whole, path = check("vit", [1, 2, 3], tiny_dataset, tmp_path, 3)
    assert [line["step"] for line in lines(path)] == [line["step"] for line in lines(whole)]
    for mine, theirs in zip(lines(path), lines(whole), strict=True):
        if "loss" in mine:
            assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
    assert RunDirectory(path).results.read()[-1]["step"] == 16
