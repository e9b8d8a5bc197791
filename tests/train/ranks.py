"""What several tests compare: torchrun runs this file, a fixture calls `measure` in its own process."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.nn import functional

from clipkit.model.clip import build
from clipkit.model.config import named_config
from clipkit.shards.loader import Batch
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.distributed import open_world
from clipkit.train.loss import clip_loss
from clipkit.train.optimizer import AdamSettings, make_optimizer
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory
from clipkit.train.schedule import Schedule
from clipkit.train.step import TrainStep, wrapped_features
from tests.train.evaluations import leave_evaluations
from tests.train.global_batch import FEW, leave_steps

SAMPLES = 12
MODEL = "ViT-Micro/16@32px"
CONFIG = TrainConfig(
    model=MODEL, batch_size=SAMPLES, epochs=3, lr=1e-3, log_every=3, save_every=100, workers=0, grad_clip=1.0
)
RESNET = CONFIG.model_copy(update={"model": "RN-Mini@64px", "epochs": 1})
_OPEN_CLIP = find_spec("open_clip")
assert _OPEN_CLIP is not None and _OPEN_CLIP.origin is not None
CLIP_LOSS = runpy.run_path(str(Path(_OPEN_CLIP.origin).with_name("loss.py")))["ClipLoss"]
"""OpenCLIP's, without all else that the package imports, which takes each process seconds."""


def measure(dataset: Path, pictures: Path, out: Path) -> None:
    """Leave OUT/rank_R.pt with loss, gradients and collectives of rank R, and three whole runs."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(SAMPLES, 16, generator=generator) for _ in range(2)]
    images_BCHW = torch.randint(0, 256, (SAMPLES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    tokens_BL = torch.randint(1, 49_000, (SAMPLES, 77), generator=generator)
    tokens_BL[:, 20] = 49_407
    with open_world("cpu") as world:
        share = SAMPLES // world.size
        own = slice(world.rank * share, (world.rank + 1) * share)
        found: dict[str, object] = {
            "gathered": world.gather(torch.tensor([world.rank])),
            "mean": world.mean(torch.tensor(float(world.rank))),
            "largest": world.largest(world.rank, -world.rank),
        }
        peer = CLIP_LOSS(
            local_loss=True, gather_with_grad=world.size > 1, rank=world.rank, world_size=world.size
        )
        for name in ("ours", "peer"):
            leaves = [each[own].clone().requires_grad_() for each in features]
            scale = torch.tensor(14.0, requires_grad=True)
            rows = [functional.normalize(each, dim=-1) for each in leaves]
            loss = peer(*rows, scale) if name == "peer" else clip_loss(rows[0], rows[1], scale, world)
            loss.backward()
            found[name] = [loss.detach(), *(each.grad for each in leaves), scale.grad]

        model = build(named_config(MODEL), seed=0)
        optimizer = make_optimizer(model, AdamSettings((0.9, 0.98), 1e-6, 0.2))
        wrapped = wrapped_features(model, world)
        step = TrainStep(model, wrapped, optimizer, Schedule(1e-3, 0, 10), world, "fp32", None)
        step(Batch(images_BCHW[own], tokens_BL[own], torch.arange(SAMPLES)[own]), 0, with_norm=False)
        found["gradients"] = {name: each.grad for name, each in model.named_parameters()}
        torch.save(found, out / f"rank_{world.rank}.pt")
        if world.size > 1:
            leave_steps(world, out, FEW)
        leave_evaluations(world, dataset, pictures, out)
        # Several processes compute activations again, and all numbers are those of one that keeps them.
        config = CONFIG.model_copy(update={"grad_checkpointing": world.size > 1})
        train(config, ShardSet(dataset), RunDirectory(out / "run"), device="cpu")
        for name, recomputes in (("kept", False), ("recomputed", True)):
            config = RESNET.model_copy(update={"grad_checkpointing": recomputes})
            train(config, ShardSet(dataset), RunDirectory(out / name), device="cpu")


if __name__ == "__main__":
    measure(*map(Path, sys.argv[1:]))
