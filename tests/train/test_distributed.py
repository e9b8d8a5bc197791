"""Two processes, started by torchrun as users do, beside one."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.train.distributed import open_world
from clipkit.train.run_directory import RunDirectory
from tests.conftest import picture

SCRIPT = Path(__file__).with_name("ranks.py")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders of hundreds of names for one picture each; what is broken is in the second's share."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate("abc"):
        (folder / name).mkdir()
        (folder / f"{number}").write_bytes(picture(number))
        for place in range(333 + number):
            (folder / name / f"{place:03}.jpg").symlink_to(folder / f"{number}")
    (folder / "a" / "007.jpg").unlink()
    (folder / "a" / "007.jpg").write_bytes(b"none")
    return folder


@pytest.fixture(scope="module")
def one(tiny_dataset: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one")
    runpy.run_path(str(SCRIPT))["measure"](tiny_dataset, pictures, out)
    return out


@pytest.fixture(scope="module")
def two(tiny_dataset: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(SCRIPT), str(tiny_dataset), str(pictures), str(out)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "UserWarning" not in done.stderr  # such as that of gradients laid out otherwise than weights
    return out


def measured(out: Path, ranks: int) -> list[dict[str, Any]]:
    return [torch.load(out / f"rank_{rank}.pt", weights_only=True) for rank in range(ranks)]


def test_collectives(one: Path, two: Path) -> None:
    for ranks, out in ((1, one), (2, two)):
        for found in measured(out, ranks):
            assert [int(each) for each in found["gathered"]] == list(range(ranks))
            assert found["mean"] == (ranks - 1) / 2
            assert found["largest"] == [ranks - 1, 0]


def test_loss_of_two_ranks_is_that_of_one(one: Path, two: Path) -> None:
    (whole,), halves = measured(one, 1), measured(two, 2)
    loss, images, texts, scale = whole["ours"]
    parts = list(zip(*(half["ours"] for half in halves), strict=True))
    torch.testing.assert_close(sum(parts[0]) / 2, loss, rtol=0, atol=1e-6)
    # A rank's gradients are those of the sum over ranks; DistributedDataParallel averages the parameters'.
    torch.testing.assert_close(torch.cat(parts[1]) / 2, images, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.cat(parts[2]) / 2, texts, rtol=0, atol=1e-6)
    torch.testing.assert_close(sum(parts[3]) / 2, scale, rtol=0, atol=1e-6)


def test_each_rank_equals_open_clips_local_loss(one: Path, two: Path) -> None:
    for found in (*measured(one, 1), *measured(two, 2)):
        for ours, theirs in zip(found["ours"], found["peer"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_parameter_gradients_of_two_ranks_are_those_of_one(one: Path, two: Path) -> None:
    (whole,), halves = measured(one, 1), measured(two, 2)
    for half in halves:
        assert half["gradients"].keys() == whole["gradients"].keys()
        for name, gradient in half["gradients"].items():
            torch.testing.assert_close(gradient, whole["gradients"][name], rtol=0, atol=1e-5, msg=name)


def test_a_run_of_two_ranks_is_the_run_of_one(one: Path, two: Path) -> None:
    single, double = (RunDirectory(out / "run") for out in (one, two))
    assert [line["step"] for line in double.metrics.read()] == [3, 6, 9, 12, 15, 16]
    for name, tolerance in (("loss", 1e-5), ("grad_norm", 1e-3), ("logit_scale", 1e-4)):
        values = [[line[name] for line in run.metrics.read()] for run in (double, single)]
        assert values[0] == pytest.approx(values[1], abs=tolerance)
    checkpoint = torch.load(double.checkpoints / "epoch_3.pt", weights_only=True)
    assert len(checkpoint["rng"]["torch"]) == 2
    assert not any(name.startswith(("module.", "model.")) for name in checkpoint["state_dict"])


def test_an_evaluation_of_two_ranks_is_that_of_one_bit_for_bit(one: Path, two: Path) -> None:
    (whole,), halves = measured(one, 1), measured(two, 2)
    for half in halves:
        assert torch.equal(half["zero_shot"]["classifier"], whole["zero_shot"]["classifier"])
        assert half["zero_shot"]["result"] == whole["zero_shot"]["result"]
    result = whole["zero_shot"]["result"]
    assert (result["images"], len(result["unreadable"])) == (1001, 1)
    assert result["unreadable"][0].endswith("a/007.jpg")
    assert 0 < result["top1"] < 1
    told = [half["zero_shot"]["told"] for half in halves]
    assert sorted(told[0] + told[1]) == whole["zero_shot"]["told"]
    assert len(told[0]) - len(told[1]) in (0, 1)


def test_an_evaluation_that_one_rank_must_leave_ends_in_all_and_is_made_again(one: Path, two: Path) -> None:
    for ranks, out in ((1, one), (2, two)):
        for rank in range(ranks):
            told = (out / "stopped" / f"told_{rank}").read_text()
            assert "stopped after step 6; " in told and "epoch_1.pt is written" in told
        found = [line for line in RunDirectory(out / "stopped").metrics.read() if "ranks" in line]
        assert [(line["step"], line["processes"], line["ranks"]) for line in found] == [
            (step, ranks, sum(range(1, ranks + 1))) for step in (0, 6, 11, 16)
        ]


def test_a_resnets_ranks_may_recompute_their_activations(one: Path, two: Path) -> None:
    for out in (one, two):
        kept, recomputed = (
            torch.load(out / name / "checkpoints" / "epoch_1.pt", weights_only=True)["state_dict"]
            for name in ("kept", "recomputed")
        )
        assert int(kept["visual.bn1.num_batches_tracked"]) == 5
        assert [name for name in kept if not torch.equal(kept[name], recomputed[name])] == []


def test_without_a_launcher_there_is_one_process() -> None:
    with open_world("cpu") as world:
        assert (world.rank, world.size, world.device, world.is_first) == (0, 1, torch.device("cpu"), True)
        assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_gpu_that_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match="needs a GPU of its own, found 0 GPUs"):
        open_world("cuda").__enter__()
