"""Pictures of three colours, in and out of distribution, and a zero-shot model of random weights."""

from pathlib import Path

import numpy as np
from PIL import Image

from clipkit.model.checkpoint import Checkpoint, save_checkpoint
from clipkit.model.clip import build
from clipkit.model.config import named_config

COLOURS = {"red": 0, "green": 1, "blue": 2}
CLASSES = "folder,names\nred,red|scarlet\nblue,blue\ngreen,green\n"


def draw(
    folder: Path, count: int, *, seed: int, contrast: int = 60, colours: dict[str, int] = COLOURS
) -> Path:
    """`count` noisy PNG pictures of each colour, each in the colour's folder."""
    for name, channel in colours.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            random = np.random.default_rng([seed, channel, number])
            pixels = random.integers(60, 160, (36, 40, 3), dtype=np.uint8)
            pixels[..., channel] += contrast
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder


def zero_shot_model(path: Path, name: str = "ViT-Micro/16@32px") -> Path:
    """A checkpoint of a model that was trained on nothing, but whose features differ."""
    config = named_config(name)
    model = build(config, seed=3)
    content = Checkpoint(0, "zero", model.state_dict(), config.model_dump(mode="json"), step=7, position=70)
    save_checkpoint(path, content)
    return path
