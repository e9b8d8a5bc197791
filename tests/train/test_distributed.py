"""Two processes, started by torchrun as users do, beside one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.train.distributed import open_world
from clipkit.train.run_directory import RunDirectory
from tests.train.launching import launched


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


@pytest.mark.slow
def test_the_first_step_of_processes_rounds_as_all_others() -> None:
    launched(4, Path(__file__).with_name("two_passes.py"))


def test_a_run_of_two_ranks_is_the_run_of_one(one: Path, two: Path) -> None:
    single, double = (RunDirectory(out / "run") for out in (one, two))
    assert [line["step"] for line in double.metrics.read()] == [3, 6, 9, 12, 15, 16]
    for name, tolerance in (("loss", 1e-5), ("grad_norm", 1e-3), ("logit_scale", 1e-4)):
        values = [[line[name] for line in run.metrics.read()] for run in (double, single)]
        assert values[0] == pytest.approx(values[1], abs=tolerance)
    checkpoint = torch.load(double.checkpoints / "epoch_3.pt", weights_only=True)
    assert len(checkpoint["rng"]["torch"]) == 2
    assert not any(name.startswith(("module.", "model.")) for name in checkpoint["state_dict"])


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
