"""What test_evaluating compares: evaluations by one process, and by several that torchrun started."""

import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from clipkit.evaluate.classes import ClassSet
from clipkit.evaluate.images import read_folder
from clipkit.evaluate.ranks import Ranks
from clipkit.evaluate.validation import validation_evaluator
from clipkit.evaluate.zero_shot import build_classifier, classify
from clipkit.model.clip import Clip, build
from clipkit.model.config import named_config
from clipkit.model.tokenizer import Tokenizer
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.distributed import World
from clipkit.train.evaluating import Together
from clipkit.train.interrupt import Interruption, TrainInterrupted
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory

MODEL = "ViT-Micro/16@32px"
PROMPTS = ("a photo of a {}.", "a {} in the sea", "{}")
CONFIG = TrainConfig(model=MODEL, batch_size=12, epochs=3, lr=1e-3, log_every=3, workers=0)


def leave_evaluations(world: World, dataset: Path, pictures: Path, out: Path) -> None:
    """Leave OUT/evaluated_R.pt with this rank's figures, and a run whose evaluation was interrupted."""
    with Interruption() as interruption:
        together = Together(world, interruption, None)
        model = build(named_config(MODEL), seed=0)
        validation = validation_evaluator(ShardSet(dataset), 12, batch_size=5, workers=0)
        found = {
            "zero_shot": zero_shot(model, pictures, together),
            "validation": dict(validation(model, together)),
        }
        torch.save(found, out / f"evaluated_{world.rank}.pt")
    interrupted(dataset, out / "stopped", world)


def zero_shot(model: Clip, pictures: Path, ranks: Ranks) -> dict[str, object]:
    """The classifier of three classes, and what came of PICTURES, by batches of five."""
    classes = ClassSet("things", ("a", "b", "c"), (("ox",), ("cup", "mug"), ("great white shark",)), PROMPTS)
    images = read_folder(pictures, classes.folder_labels, name="things")
    classifier = build_classifier(model, Tokenizer(), classes, batch_size=3, ranks=ranks)
    told: list[int] = []
    result = classify(model, classifier, images, batch_size=5, workers=0, report=told.append, ranks=ranks)
    figures = asdict(result)
    figures["predictions"] = {name: each.tolist() for name, each in figures["predictions"].items()}
    return {"classifier": classifier, "result": figures, "told": told}


def interrupted(dataset: Path, path: Path, world: World) -> None:
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
