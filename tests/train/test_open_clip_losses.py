"""Whole runs beside OpenCLIP's: `train` on a dataset, and `open_clip_train.main` on the very same batches."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipkit.model.clip import build
from clipkit.model.config import named_config
from clipkit.model.preprocess import TrainTransform
from clipkit.model.tokenizer import Tokenizer
from clipkit.shards.loader import Batch, batches
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory
from tests.train.open_clip_main import losses_of_open_clip

SEED, BATCH_SIZE, WARMUP = 3, 16, 5
VIT, RESNET = "ViT-Micro/16@32px", "RN-Mini@64px"
Weights = dict[str, Tensor]


def our_losses(model: str, steps: int, dataset: Path, run: Path) -> list[float]:
    """A run with all defaults that both sides have from the paper."""
    settings = {"samples_seen": steps * BATCH_SIZE, "warmup": WARMUP, "seed": SEED}
    config = TrainConfig(model=model, batch_size=BATCH_SIZE, log_every=1, workers=0, **settings)
    train(config, ShardSet(str(dataset)), RunDirectory(run), device="cpu")
    return [line["loss"] for line in RunDirectory(run).metrics.read()]


def same_batches(model: str, steps: int, dataset: Path) -> list[Batch]:
    config = named_config(model)
    transform, tokenize = TrainTransform(config.image_size), Tokenizer(config.text.context_length)
    made = batches(
        ShardSet(str(dataset)),
        batch_size=BATCH_SIZE,
        workers=0,
        seed=SEED,
        stop=steps * BATCH_SIZE,
        transform=transform,
        tokenize=tokenize,
    )
    return list(made)


def start(model: str) -> Weights:
    return build(named_config(model), seed=SEED).state_dict()


def moved(weights: Weights, towards: float) -> Weights:
    """Every weight moved by one unit in the last place."""
    return {
        name: torch.nextafter(each, torch.tensor(towards)) if each.is_floating_point() else each
        for name, each in weights.items()
    }


def their_losses(model: str, weights: Weights, given: Sequence[Batch], folder: Path) -> list[float]:
    return losses_of_open_clip(named_config(model), weights, given, {"warmup": WARMUP}, folder)


@pytest.mark.parametrize(("model", "steps"), [(VIT, 100), (RESNET, 10)])
def test_losses_equal_those_of_open_clips_training_program(
    model: str, steps: int, small_dataset: Path, tmp_path: Path
) -> None:
    ours = our_losses(model, steps, small_dataset, tmp_path / "run")
    theirs = their_losses(model, start(model), same_batches(model, steps, small_dataset), tmp_path / "peer")
    assert len(ours) == len(theirs) == steps
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert max(ours) - min(ours) > 0.1


@pytest.mark.slow
def test_a_resnet_departs_from_open_clips_no_faster_than_that_from_itself(
    small_dataset: Path, tmp_path: Path
) -> None:
    steps = 100
    ours = our_losses(RESNET, steps, small_dataset, tmp_path / "run")
    given, weights = same_batches(RESNET, steps, small_dataset), start(RESNET)
    theirs = their_losses(RESNET, weights, given, tmp_path / "peer")
    others = [
        their_losses(RESNET, moved(weights, towards), given, tmp_path / f"moved to {towards}")
        for towards in (float("inf"), -float("inf"), 0.0)
    ]
    import json

    Path("/tmp/proofs_resnet.json").write_text(json.dumps([ours, theirs, *others]))
