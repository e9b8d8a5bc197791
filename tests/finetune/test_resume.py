"""A fine-tuning that is stopped, killed or repeated comes to the same numbers."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from clipkit.model.checkpoint import load_checkpoint
from tests.finetune.pictures import CLASSES, draw, zero_shot_model
from tests.processes import in_a_session, until
from tests.threads import one_thread as one_thread

WORDS = "--batch-size 8 --epochs 6 --lr 1e-3 --workers 1 --log-every 1 --alphas 0,0.5,1 --save-alpha 0.5"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resumed")
    zero_shot_model(folder / "zero.pt", "RN-Mini@64px")
    draw(folder / "train", 12, seed=0)
    draw(folder / "pale", 6, seed=2, contrast=15)
    (folder / "classes.csv").write_text(CLASSES)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A run that nothing interrupted."""
    with finetuning(folder, "whole") as process:
        output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert json.loads(output)["held_out"] is True
    return folder / "runs" / "whole"


@contextmanager
def finetuning(folder: Path, name: str, *words: str) -> Iterator["subprocess.Popen[str]"]:
    given: list[str | Path] = [
        "--checkpoint",
        folder / "zero.pt",
        "--folder",
        folder / "train",
        "--runs",
        folder / "runs",
    ]
    given += ["--classes", folder / "classes.csv", "--shifted", folder / "pale", "--name", name, "--json"]
    command = [sys.executable, "-m", "clipkit", "finetune", *WORDS.split(), *given, *words]
    with in_a_session(command, Path.cwd()) as process:
        yield process


def logged(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def losses(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return metrics.read_text().count('"loss"') if metrics.exists() else 0


def line_of(run: Path) -> list[tuple[float, str, float]]:
    records = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    return [(each["alpha"], each["set"], each["top1"]) for each in records if each["kind"] == "finetune"]


def same(run: Path, whole: Path) -> None:
    assert logged(run) == logged(whole)
    assert line_of(run) == line_of(whole)
    one, other = (load_checkpoint(each / "checkpoints" / "alpha_0.5.pt") for each in (run, whole))
    for name, value in one.state_dict.items():
        assert torch.equal(value, other.state_dict[name]), name
    assert torch.equal(one.extra["classifier"]["weights"], other.extra["classifier"]["weights"])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(folder: Path, whole: Path) -> None:
    with finetuning(folder, "again") as process:
        assert process.wait(200) == 0
    assert len(logged(whole)) == 24
    same(folder / "runs" / "again", whole)


@pytest.mark.slow
@pytest.mark.parametrize("at", [5, 9, 23])
def test_a_killed_run_goes_on_with_the_same_numbers(folder: Path, whole: Path, at: int) -> None:
    run = folder / "runs" / f"killed-{at}"
    with finetuning(folder, run.name) as process:
        until(lambda: losses(run) >= at or process.poll() is not None, "it trains", 200)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    with finetuning(folder, run.name) as process:
        assert process.wait(200) == 0, process.communicate()[1]
    same(run, whole)


@pytest.mark.slow
def test_ctrl_c_writes_a_checkpoint_and_the_same_command_goes_on(folder: Path, whole: Path) -> None:
    run = folder / "runs" / "stopped"
    with finetuning(folder, run.name) as process:
        until(lambda: losses(run) >= 6 or process.poll() is not None, "it trains", 200)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and output == ""
    assert "run the same command to go on" in errors.splitlines()[-1] and "Traceback" not in errors
    with finetuning(folder, run.name) as process:
        assert process.wait(200) == 0
    same(run, whole)


@pytest.mark.slow
def test_ctrl_c_on_the_line_ends_at_once_and_keeps_what_was_measured(folder: Path, whole: Path) -> None:
    run = folder / "runs" / "measured"
    shutil.copytree(whole, run, symlinks=True)
    before = line_of(run)
    alphas = ",".join(str(number / 100) for number in range(101))
    with finetuning(folder, run.name, "--alphas", alphas) as process:
        until(lambda: len(line_of(run)) > len(before) or process.poll() is not None, "it measures", 200)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert line_of(run)[: len(before)] == before and logged(run) == logged(whole)
