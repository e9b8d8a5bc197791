"""What test_distributed compares: torchrun runs this file, the test calls `measure` in its own process."""

import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from open_clip.loss import ClipLoss
from torch.nn import functional

from clipkit.evaluate.classes import ClassSet
from clipkit.evaluate.images import read_folder
from clipkit.evaluate.ranks import Ranks
from clipkit.evaluate.zero_shot import build_classifier, classify
from clipkit.model.clip import Clip, build
from clipkit.model.config import named_config
from clipkit.model.tokenizer import Tokenizer
from clipkit.shards.loader import Batch
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.distributed import World, open_world
from clipkit.train.evaluating import Together
from clipkit.train.interrupt import Interruption, TrainInterrupted
from clipkit.train.loss import clip_loss
from clipkit.train.optimizer import AdamSettings, make_optimizer
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory
from clipkit.train.schedule import Schedule
from clipkit.train.step import TrainStep, wrapped_features

SAMPLES = 12
MODEL = "ViT-Micro/16@32px"
PROMPTS = ("a photo of a {}.", "a {} in the sea", "{}")
CONFIG = TrainConfig(
    model=MODEL, batch_size=SAMPLES, epochs=3, lr=1e-3, log_every=3, save_every=100, workers=0, grad_clip=1.0
)
RESNET = CONFIG.model_copy(update={"model": "RN-Mini@64px", "epochs": 1})


def zero_shot(model: Clip, pictures: Path, ranks: Ranks) -> dict[str, object]:
    """The classifier of three classes, and what came of PICTURES, by batches of five."""
    classes = ClassSet("things", ("a", "b", "c"), (("ox",), ("cup", "mug"), ("great white shark",)), PROMPTS)
    images = read_folder(pictures, classes.folder_labels, name="things")
    classifier = build_classifier(model, Tokenizer(), classes, batch_size=3, ranks=ranks)
    told: list[int] = []
    result = classify(model, classifier, images, batch_size=5, workers=0, report=told.append, ranks=ranks)
    return {"classifier": classifier, "result": asdict(result), "told": told}


def interrupted_evaluation(dataset: Path, path: Path, world: World) -> None:
    """A run whose last process is asked to stop in the midst of its second evaluation, and that goes on."""
    begun: list[int] = []

    def summed(model: Clip, together: Together) -> Iterator[tuple[str, float]]:
        begun.append(together.rank)
        yield "processes", float(together.total(torch.ones(1)))
        if together.rank == together.size - 1 and len(begun) == 2:
            signal.raise_signal(signal.SIGTERM)
        yield "ranks", float(together.total(torch.tensor([1.0 + together.rank])))

    try:
        train(CONFIG, ShardSet(dataset), RunDirectory(path), [summed], device="cpu")
    except TrainInterrupted as error:
        (path / f"told_{world.rank}").write_text(str(error))
    train(CONFIG, ShardSet(dataset), RunDirectory(path), [summed], device="cpu")


def measure(dataset: Path, pictures: Path, out: Path) -> None:
    """Leave OUT/rank_R.pt with loss, gradients, collectives and evaluations of rank R, and four runs."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(SAMPLES, 16, generator=generator) for _ in range(2)]
    images_BCHW = torch.randint(0, 256, (SAMPLES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    tokens_BL = torch.randint(1, 49_000, (SAMPLES, 77), generator=generator)
    tokens_BL[:, 20] = 49_407
    with open_world("cpu") as world, Interruption() as interruption:
        together = Together(world, interruption, None)
        share = SAMPLES // world.size
        own = slice(world.rank * share, (world.rank + 1) * share)
        found: dict[str, object] = {
            "gathered": world.gather(torch.tensor([world.rank])),
            "mean": world.mean(torch.tensor(float(world.rank))),
            "largest": world.largest(world.rank, -world.rank),
        }
        peer = ClipLoss(
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
        found["zero_shot"] = zero_shot(build(named_config(MODEL), seed=0), pictures, together)
        torch.save(found, out / f"rank_{world.rank}.pt")
        interrupted_evaluation(dataset, out / "stopped", world)
        # Several processes compute activations again, and all numbers are those of one that keeps them.
        config = CONFIG.model_copy(update={"grad_checkpointing": world.size > 1})
        train(config, ShardSet(dataset), RunDirectory(out / "run"), device="cpu")
        for name, recomputes in (("kept", False), ("recomputed", True)):
            config = RESNET.model_copy(update={"grad_checkpointing": recomputes})
            train(config, ShardSet(dataset), RunDirectory(out / name), device="cpu")


if __name__ == "__main__":
    measure(*map(Path, sys.argv[1:]))
