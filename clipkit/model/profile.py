"""Parameters and floating-point operations of the named models."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from clipkit.model.clip import shapes_of
from clipkit.model.config import ClipConfig, ResNetConfig, config_names, named_config
from clipkit.tables import table


@dataclass(frozen=True)
class ModelFigures:
    """One row of `clipkit models`.

    `gflops` are of one picture and one text, a multiplication and an addition being two, for the
    architecture as published: there the attention pool and a transformer's last block answer everywhere,
    although one answer is used.
    """

    name: str
    open_clip_name: str | None
    image_size: int
    embed_dim: int
    parameters: int
    gflops: float


@dataclass(frozen=True)
class ModelTable:
    """Figures of several models, for the command line."""

    rows: tuple[ModelFigures, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        return {"models": [asdict(row) for row in self.rows]}

    def lines(self) -> str:
        """Return a table with a line a model."""
        header = ("model", "pixels", "embedding", "M parameters", "GFLOPs", "in OpenCLIP")
        rows = [
            (row.name, row.image_size, row.embed_dim, row.parameters / 1e6, row.gflops, row.open_clip_name)
            for row in self.rows
        ]
        return table(rows, header)


def model_table() -> ModelTable:
    """Figures of every built-in configuration."""
    return ModelTable(tuple(figures(named_config(name)) for name in config_names()))


def figures(config: ClipConfig) -> ModelFigures:
    """Figures of one configuration; nothing is computed and no memory is taken."""
    return ModelFigures(
        name=config.name,
        open_clip_name=config.open_clip_name,
        image_size=config.image_size,
        embed_dim=config.embed_dim,
        parameters=sum(parameter.numel() for parameter in shapes_of(config).parameters()),
        gflops=2 * _multiplications(config) / 1e9,
    )


def flops_done(config: ClipConfig, text_length: int) -> int:
    """Count what clipkit computes of one picture and one text of so many tokens, forward.

    It is less than the published architecture's: of the last blocks, and of the attention pool, only what
    is asked for. torch counts while it runs the model on its meta device, which takes a second.
    """
    clip = shapes_of(config).eval()
    with torch.device("meta"):
        images = torch.empty(1, 3, config.image_size, config.image_size)
        tokens = torch.empty(1, text_length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        clip.encode_image(images)
        clip.encode_text(tokens)
    return int(counter.get_total_flops())


def _multiplications(config: ClipConfig) -> int:
    text, vision = config.text, config.vision
    of_texts = _transformer(text.context_length, text.width, text.layers) + text.width * config.embed_dim
    if isinstance(vision, ResNetConfig):
        return of_texts + _resnet(vision, config.embed_dim)
    patches = vision.grid**2
    first_and_last = vision.width * (3 * vision.patch_size**2 * patches + config.embed_dim)
    return of_texts + first_and_last + _transformer(patches + 1, vision.width, vision.layers)


def _transformer(positions: int, width: int, layers: int) -> int:
    # Questions, keys, values and the mixture's projection: 4; the perceptron four times as wide: 8.
    return layers * (12 * positions * width**2 + 2 * positions**2 * width)


def _resnet(config: ResNetConfig, embed_dim: int) -> int:
    half, width = config.width // 2, config.width
    done = 9 * (config.image_size // 2) ** 2 * half * (3 + half + width)
    channels, side = width, config.image_size // 4
    for layer, blocks in enumerate(config.layers):
        planes = width * 2**layer
        smaller = side if layer == 0 else side // 2  # after the first block's second convolution
        done += side**2 * (channels * planes + 9 * planes**2) + smaller**2 * 4 * planes * (planes + channels)
        done += (blocks - 1) * smaller**2 * (4 + 9 + 4) * planes**2
        channels, side = 4 * planes, smaller
    positions = side**2 + 1
    return done + positions * channels * (3 * channels + embed_dim) + 2 * positions**2 * channels
