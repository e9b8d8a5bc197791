"""A ResNet's run: what its moving statistics, its layout in memory and the ways to save memory change."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from clipkit.model.clip import Clip
from clipkit.model.recomputing import Blocks
from clipkit.train.config import TrainConfig
from clipkit.train.evaluating import Together
from clipkit.train.interrupt import TrainInterrupted
from tests.train.test_run import assert_same_run, run_it, scale

CONFIG = TrainConfig(model="RN-Mini@64px", batch_size=16, epochs=2, lr=1e-3, log_every=1, workers=0)


@pytest.fixture(scope="module")
def whole(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 steps that nothing interrupted."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    run_it(tiny_dataset, path, CONFIG)
    return path


@pytest.mark.slow
def test_a_run_goes_on_with_gradient_checkpointing_and_changes_no_number(
    tiny_dataset: Path, tmp_path: Path, whole: Path
) -> None:
    path = tmp_path / "run"
    with pytest.raises(TrainInterrupted, match="stopped after step 3"):
        run_it(tiny_dataset, path, CONFIG, at=48, act=lambda: signal.raise_signal(signal.SIGINT))
    seen: list[bool] = []

    def watch(model: Clip, together: Together) -> Iterator[tuple[str, float]]:
        seen.extend(each.recomputes for each in model.modules() if isinstance(each, Blocks))
        seen.append(model.visual.conv1.weight.is_contiguous(memory_format=torch.channels_last))
        yield from scale(model, together)

    run_it(tiny_dataset, path, CONFIG.model_copy(update={"grad_checkpointing": True}), [watch])
    assert_same_run(path, whole, epoch=2)
    assert set(seen) == {True}
    counted = torch.load(path / "checkpoints" / "epoch_2.pt", weights_only=True)["state_dict"]
    assert int(counted["visual.layer4.0.bn3.num_batches_tracked"]) == 8
