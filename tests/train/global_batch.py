"""What test_global_batch compares: one step on 64 samples, however they are shared out.

`torchrun global_batch.py OUT` leaves OUT/steps_R.pt with all steps; ranks.py leaves one with FEW of them.
"""

import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from clipkit.model.clip import Clip, build
from clipkit.model.config import named_config
from clipkit.model.memory_layout import fast_layout
from clipkit.shards.loader import Batch
from clipkit.train.config import Precision
from clipkit.train.distributed import World, open_world
from clipkit.train.optimizer import AdamSettings, make_optimizer
from clipkit.train.schedule import Schedule
from clipkit.train.step import TrainStep, wrapped_features
from clipkit.train.sync_batch_norm import synchronize_batch_norm

SAMPLES = 64
VIT, RESNET = "ViT-Micro/16@32px", "RN-Mini@64px"
RANKS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": (VIT, {}),
    "vit, accumulate 2": (VIT, {"accumulate": 2}),
    "vit, accumulate 2, all": (VIT, {"accumulate": 2, "recomputes": True, "grad_clip": 0.5}),
    "vit, image locked": (VIT, {"lock": Clip.lock_image}),
    "vit, text locked, accumulate 2": (VIT, {"lock": Clip.lock_text, "accumulate": 2}),
    "resnet": (RESNET, {"dtype": torch.float64}),
    "resnet, all": (RESNET, {"dtype": torch.float64, "recomputes": True, "grad_clip": 0.5}),
    "resnet, image locked": (RESNET, {"lock": Clip.lock_image, "accumulate": 2, "dtype": torch.float64}),
}
"""What each rank of several measures.

A ResNet in float64: in float32 its gradients move by 1e-4 where one weight tensor moves by a unit in its last
place, since half of the values that batch norm centres lie beside the kink of a ReLU.
"""
FEW = ("vit, accumulate 2, all", "vit, image locked", "resnet, all")


def make_batch(image_size: int) -> Batch:
    """Pictures that are no noise, so that batch norm has something to normalise, and texts of any length."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(SAMPLES, 3, 4, 4, generator=generator) * 255
    images_BCHW = torch.nn.functional.interpolate(coarse, image_size, mode="bilinear").to(torch.uint8)
    tokens_BL = torch.randint(1, 49_000, (SAMPLES, 77), generator=generator)
    ends_B = torch.randint(3, 30, (SAMPLES,), generator=generator)
    tokens_BL[torch.arange(SAMPLES), ends_B] = 49_407
    tokens_BL[torch.arange(77) > ends_B[:, None]] = 0
    return Batch(images_BCHW, tokens_BL, torch.arange(SAMPLES))


def prepared(name: str, dtype: torch.dtype = torch.float32) -> Clip:
    """A model in which every weight has a gradient: a block's last gain begins at zero otherwise."""
    model = fast_layout(build(named_config(name), seed=0).to(dtype))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if key.endswith("bn3.weight"):
                weight.fill_(0.5)
    return model


def measure(
    world: World,
    name: str,
    *,
    accumulate: int = 1,
    recomputes: bool = False,
    grad_clip: float | None = None,
    lock: Callable[[Clip], None] = lambda model: None,
    precision: Precision = "fp32",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Loss, gradients and weights after one step of this rank's share, as plain values."""
    model = prepared(name, dtype)
    model.set_gradient_checkpointing(recomputes)
    lock(model)
    model = synchronize_batch_norm(model, world)
    optimizer = make_optimizer(model, AdamSettings((0.9, 0.98), 1e-6, 0.2))
    features = wrapped_features(model, world)
    step = TrainStep(
        model, features, optimizer, Schedule(1e-3, 0, 10), world, precision, grad_clip, accumulate
    )
    whole = make_batch(model.config.image_size)
    share = SAMPLES // world.size
    own = slice(world.rank * share, (world.rank + 1) * share)
    figures = step(Batch(whole.images_BCHW[own], whole.tokens_BL[own], whole.positions_B[own]), 0, True)
    assert figures.norm is not None
    return {
        "loss": world.mean(figures.loss),
        "norm": figures.norm,
        "gradients": {key: each.grad for key, each in model.named_parameters()},
        "state_dict": model.state_dict(),
    }


def leave_steps(world: World, out: Path, labels: Collection[str]) -> None:
    """Leave OUT/steps_R.pt with what this rank measured."""
    found = {label: measure(world, RANKS[label][0], **RANKS[label][1]) for label in labels}
    torch.save(found, out / f"steps_{world.rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with open_world("cpu") as world:
        leave_steps(world, Path(sys.argv[1]), RANKS)
