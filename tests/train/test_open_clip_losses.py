"""Whole runs beside OpenCLIP's: `train` on a dataset, and `open_clip_train.main` on the very same batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
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

SEED, BATCH_SIZE = 3, 16
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """What is not left to the defaults, which both sides have from the paper."""

    model: str
    steps: int
    warmup: int
    lr: float


VIT = Settings("ViT-Micro/16@32px", steps=100, warmup=10, lr=5e-4)
# As the first steps of a warm-up of a hundred; a higher rate makes rounding errors grow faster.
RESNET = Settings("RN-Mini@64px", steps=10, warmup=9, lr=5e-5)
LONG_RESNET = Settings("RN-Mini@64px", steps=100, warmup=20, lr=2e-3)


def our_losses(settings: Settings, dataset: Path, run: Path) -> list[float]:
    config = TrainConfig(
        model=settings.model,
        batch_size=BATCH_SIZE,
        samples_seen=settings.steps * BATCH_SIZE,
        warmup=settings.warmup,
        lr=settings.lr,
        seed=SEED,
        log_every=1,
        workers=0,
    )
    train(config, ShardSet(str(dataset)), RunDirectory(run), device="cpu")
    return [line["loss"] for line in RunDirectory(run).metrics.read()]


def same_batches(settings: Settings, dataset: Path) -> list[Batch]:
    config = named_config(settings.model)
    made = batches(
        ShardSet(str(dataset)),
        batch_size=BATCH_SIZE,
        workers=0,
        seed=SEED,
        stop=settings.steps * BATCH_SIZE,
        transform=TrainTransform(config.image_size),
        tokenize=Tokenizer(config.text.context_length),
    )
    return list(made)


def start(settings: Settings) -> Weights:
    return build(named_config(settings.model), seed=SEED).state_dict()


def moved(weights: Weights, seed: int) -> Weights:
    """Every weight moved by one unit in the last place, up or down by chance."""
    generator = torch.Generator().manual_seed(seed)
    signs = {
        name: torch.randint(0, 2, each.shape, generator=generator) * 2 - 1 for name, each in weights.items()
    }
    return {
        name: torch.nextafter(each, signs[name] * torch.inf) if each.is_floating_point() else each
        for name, each in weights.items()
    }


def their_losses(settings: Settings, weights: Weights, given: Sequence[Batch], folder: Path) -> list[float]:
    options = {"warmup": settings.warmup, "lr": settings.lr}
    return losses_of_open_clip(named_config(settings.model), weights, given, options, folder)


def furthest(losses: Sequence[float], others: Sequence[float]) -> float:
    return max(abs(one - other) for one, other in zip(losses, others, strict=True))


@pytest.mark.parametrize(
    "settings", [pytest.param(VIT, id="vit", marks=pytest.mark.slow), pytest.param(RESNET, id="resnet")]
)
def test_losses_equal_those_of_open_clips_training_program(
    settings: Settings, small_dataset: Path, tmp_path: Path
) -> None:
    ours = our_losses(settings, small_dataset, tmp_path / "run")
    given = same_batches(settings, small_dataset)
    theirs = their_losses(settings, start(settings), given, tmp_path / "peer")
    assert len(ours) == settings.steps
    assert furthest(ours, theirs) < 1e-4
    assert max(ours) - min(ours) > 0.1


@pytest.mark.slow
def test_a_resnet_departs_from_open_clips_no_further_than_that_from_itself(
    small_dataset: Path, tmp_path: Path
) -> None:
    settings = LONG_RESNET
    ours = our_losses(settings, small_dataset, tmp_path / "run")
    given, weights = same_batches(settings, small_dataset), start(settings)
    theirs = their_losses(settings, weights, given, tmp_path / "peer")
    others = [
        their_losses(settings, moved(weights, seed), given, tmp_path / f"moved {seed}") for seed in range(3)
    ]
    distances = [furthest(each, theirs) for each in others]
    print(f"from OpenCLIP: ours {furthest(ours, theirs):.1e}, itself {[f'{each:.1e}' for each in distances]}")
    assert furthest(ours, theirs) <= max(distances)
    assert max(distances) < 0.01 < 0.1 < max(theirs) - min(theirs)
    assert all(map(math.isfinite, theirs))
