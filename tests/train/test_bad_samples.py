"""Samples that cannot be read are counted once for all processes and sittings of a run."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clipkit.errors import DatasetError
from clipkit.train.config import TrainConfig
from clipkit.train.interrupt import TrainInterrupted
from tests.shards.test_bad_samples import overwrite
from tests.train.test_run import CONFIG, run_it

BROKEN = (3, 9, 17, 30, 44, 61)
"""Six of 64 samples: of three epochs' eighteen, the eleventh is one too many."""


@pytest.fixture
def damaged(tiny_dataset: Path, tmp_path: Path) -> Path:
    directory = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    for row in BROKEN:
        overwrite(directory, 0, row, "image")
    return directory


def ended(damaged: Path, run: Path, config: TrainConfig = CONFIG) -> str:
    with pytest.raises(DatasetError, match=r"11 of the \d+ samples read so far cannot be read") as raised:
        run_it(damaged, run, config, evaluators=())
    message, _, checkpoint = str(raised.value).partition("; what was trained until then is in ")
    assert Path(checkpoint).is_file() and Path(checkpoint).is_relative_to(run)
    return message


def test_a_resumed_run_counts_on(damaged: Path, tmp_path: Path) -> None:
    unbroken = ended(damaged, tmp_path / "unbroken")
    assert all(unbroken.count(f"sample {row:09d}: its picture") == 1 for row in BROKEN)
    with pytest.raises(TrainInterrupted):
        run_it(
            damaged,
            tmp_path / "stopped",
            evaluators=(),
            at=6 * CONFIG.batch_size,
            act=lambda: os.kill(os.getpid(), signal.SIGINT),
        )
    stored = torch.load(tmp_path / "stopped" / "checkpoints" / "epoch_1.pt", weights_only=True)
    assert stored["progress"]["bad"]["count"] in (6, 7)  # the sixth batch ends within the second epoch
    assert ended(damaged, tmp_path / "stopped") == unbroken
    log = (tmp_path / "stopped" / "out.log").read_text()
    assert all(f"sample {row:09d}: its picture" in log for row in BROKEN)


def test_the_last_step_is_kept_also_where_its_checkpoint_would_tell_of_too_many(
    damaged: Path, tmp_path: Path
) -> None:
    message = ended(damaged, tmp_path / "run", CONFIG.model_copy(update={"save_every": CONFIG.batch_size}))
    stored = torch.load(tmp_path / "run" / "checkpoints" / "latest", weights_only=True)
    assert f"11 of the {stored['position']} samples read so far" in message


def test_a_finished_run_tells_how_many(damaged: Path, tmp_path: Path) -> None:
    result = run_it(damaged, tmp_path / "run", CONFIG.model_copy(update={"max_bad": 1.0}), ())
    assert result.as_json()["unreadable"] == 18
    assert "unreadable  18, others took their places" in result.lines()


@pytest.mark.slow
def test_all_processes_count_together(damaged: Path, tmp_path: Path) -> None:
    unbroken = ended(damaged, tmp_path / "unbroken")
    words = f"--nproc-per-node=2 --standalone -m clipkit train --model {CONFIG.model} --name two"
    words += " --batch-size 12 --epochs 3 --lr 1e-3 --workers 0"
    command = [sys.executable, "-m", "torch.distributed.run", *words.split()]
    done = subprocess.run(
        [*command, "--shards", damaged, "--runs", tmp_path],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith(f"clipkit: {unbroken}; what was")]
    assert len(said) == 1, "torchrun's report apart"
    told = [line for line in done.stderr.splitlines() if line.endswith("; another sample took its place")]
    assert len(told) == 11, done.stderr
    assert {row for row in BROKEN for line in told if f"sample {row:09d}: " in line} == set(BROKEN)
