"""Whole runs on a GPU: their files, their continuation, several processes, and evaluation."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.evaluate.run import evaluate
from clipkit.model.checkpoint import Checkpoint, save_checkpoint
from clipkit.shards.loader import device_copy_seconds
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory
from tests.evaluate.spread import MICRO, spread_model
from tests.evaluate.test_ranks import NAMES, pets
from tests.train.test_run import lines, losses
from tests.train.test_step import make_batch

GPU = torch.device("cuda", 0)
ROOT = Path(__file__).parent.parent.parent
CONFIG = TrainConfig(
    model="ViT-Micro/16@32px", batch_size=12, epochs=3, lr=1e-3, log_every=1, workers=2, tf32=False
)

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]


def weights(path: Path) -> dict[str, Any]:
    return torch.load(path / "checkpoints" / "epoch_3.pt", weights_only=True)["state_dict"]  # type: ignore[no-any-return]


def first_epoch_of(whole: Path, path: Path) -> None:
    """Copy a run as it was after its first epoch."""
    shutil.copytree(whole, path, symlinks=True)
    for later in ("epoch_2.pt", "epoch_3.pt", "latest"):
        (path / "checkpoints" / later).unlink()


@pytest.mark.parametrize("model", ["ViT-Micro/16@32px", "RN-Mini@64px"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_goes_on_from_its_checkpoint(
    model: str, precision: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"model": model, "precision": precision})
    whole, again = tmp_path / "whole", tmp_path / "again"
    train(config, ShardSet(tiny_dataset), RunDirectory(whole), device=GPU.type)
    first_epoch_of(whole, again)
    train(config, ShardSet(tiny_dataset), RunDirectory(again), device=GPU.type)
    assert losses(again) == pytest.approx(losses(whole), rel=0.01)
    assert "goes on after step 6" in (again / "out.log").read_text()
    stored = torch.load(again / "checkpoints" / "epoch_3.pt", weights_only=True)
    assert {each.device.type for each in stored["state_dict"].values()} == {"cpu"}
    assert (stored["scaler"] is not None) == (precision == "fp16")
    assert lines(again)[-1]["peak_gpu_memory_mb"] > 0


def test_a_checkpoint_goes_from_the_gpu_to_the_cpu_and_back(tiny_dataset: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"precision": "fp32"})
    train(config, ShardSet(tiny_dataset), RunDirectory(tmp_path / "gpu"), device=GPU.type)
    first_epoch_of(tmp_path / "gpu", tmp_path / "cpu")
    train(config, ShardSet(tiny_dataset), RunDirectory(tmp_path / "cpu"), device="cpu")
    assert losses(tmp_path / "cpu") == pytest.approx(losses(tmp_path / "gpu"), rel=1e-3)


def test_two_processes_on_one_gpu_train_as_one_does(tiny_dataset: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"precision": "fp32", "workers": 0})
    train(config, ShardSet(tiny_dataset), RunDirectory(tmp_path / "one"), device=GPU.type)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = Path(__file__).with_name("one_of_two.py")
    command = [
        sys.executable,
        str(script),
        str(tiny_dataset),
        str(tmp_path / "two"),
        config.model_dump_json(),
    ]
    common = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | common | {"RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ends = [each.communicate(timeout=600)[1] for each in processes]
    assert [each.returncode for each in processes] == [0, 0], ends
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=1e-3, atol=1e-4, msg=name)


def test_a_batch_is_copied_to_the_gpu() -> None:
    seconds = device_copy_seconds(make_batch(0))
    assert seconds is not None and 0 < seconds < 60


def test_evaluation_predicts_on_a_gpu_as_on_the_cpu(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.pt"
    save_checkpoint(
        checkpoint, Checkpoint(1, "model", spread_model().state_dict(), model_config=MICRO.model_dump())
    )
    config = pets(tmp_path, pictures=30)
    found = [evaluate(checkpoint, config, device=device).records[0] for device in (GPU.type, "cpu")]
    assert found[0]["top1"] == pytest.approx(found[1]["top1"], abs=1 / (30 * len(NAMES)))
    assert found[0]["files_sha256"] == found[1]["files_sha256"]
