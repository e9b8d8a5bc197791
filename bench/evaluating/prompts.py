"""The classifier from the same prompts: clipkit's batches beside OpenCLIP's, class by class and by ten."""

import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from evaluating.models import random_model
from evaluating.pictures import LabelledSet
from evaluating.sides import Given, peer_command
from training.cost import watched

from clipkit.evaluate.classes import imagenet_classes
from clipkit.model.config import ClipConfig, TextConfig, ViTConfig, named_config

_PROGRAM = Path(__file__).with_name("own_prompts.py")
_WAYS = ("clipkit", "prompts", "prompts_by_class")
_TITLES = ("clipkit", "OpenCLIP, 10 classes at a time", "OpenCLIP, class by class")
_HEADER = "| wall | CPU | clipkit's speed: wall | CPU | largest difference |\n|---|---|---|---|---|---|"
_CLASSES = {"small": (250, 20), "rn50": (10, 2)}
SMALL = ClipConfig(
    name="Text-Small",
    embed_dim=256,
    vision=ViTConfig(layers=1, width=64, patch_size=32, image_size=64),
    text=TextConfig(width=256, heads=4, layers=4),
)


class Cost(NamedTuple):
    """Seconds from the first prompt to the classifier."""

    wall: float
    cpu: float


def compare_prompts(place: Path, runs: int, *, quick: bool) -> None:
    """Print a table for each text tower. Ends the program if the classifiers differ by more than 1e-5."""
    for name, config in (("small", SMALL), ("rn50", named_config("RN50"))):
        model = random_model(config, place / "models")
        names = [each[0] for each in imagenet_classes().names[: _CLASSES[name][quick]]]
        made = LabelledSet(place, place / "none.csv", names, 0)
        done: dict[str, list[Cost]] = {way: [] for way in _WAYS}
        for _ in range(1 if name == "rn50" else runs):
            for way, costs in done.items():
                costs.append(_cost(way, Given(model, made, {"classifier": place / f"{way}.npy"})))
                print(f"  {name}, {way}: {costs[-1]}", file=sys.stderr, flush=True)
        print(f"| {config.name}'s tower, {len(names)} classes × 80 {_HEADER}")
        for way, title in zip(_WAYS, _TITLES, strict=True):
            _show(title, done[way], done["clipkit"], _difference(place, way))
        print(flush=True)


def _difference(place: Path, way: str) -> float:
    difference = float(np.abs(np.load(place / f"{way}.npy") - np.load(place / "clipkit.npy")).max())
    if difference > 1e-5:
        raise SystemExit(f"{way}: another classifier than clipkit's, by {difference:.1e}")
    return difference


def _show(title: str, costs: list[Cost], ours: list[Cost], difference: float) -> None:
    wall, cpu = (statistics.median(each) for each in zip(*costs, strict=True))
    pairs = list(zip(costs, ours, strict=True))
    ratios = [statistics.median(theirs[place] / own[place] for theirs, own in pairs) for place in (0, 1)]
    times = f"{wall:.2f} s | {cpu:.2f} s | × {ratios[0]:.1f} | × {ratios[1]:.1f}"
    print(f"| {title} | {times} | {difference:.1e} |")


def _cost(way: str, given: Given) -> Cost:
    command = peer_command(way, given) if way != "clipkit" else _own_command(given)
    cost = watched(command, given.model.checkpoint.with_name("printed.txt"))
    begun, ended = cost.first("prompts begin"), cost.first("prompts end")
    return Cost(ended - begun, cost.cpu_until(ended) - cost.cpu_until(begun))


def _own_command(given: Given) -> list[str]:
    words = (given.model.checkpoint, given.files["classifier"], *given.made.names)
    return [str(word) for word in (sys.executable, _PROGRAM, *words)]
