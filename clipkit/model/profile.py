"""Parameters and floating-point operations of the named models, counted on torch's meta device."""

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
    """Count one configuration; nothing is computed and no memory is taken."""
    return ModelFigures(
        name=config.name,
        open_clip_name=config.open_clip_name,
        image_size=config.image_size,
        embed_dim=config.embed_dim,
        parameters=sum(parameter.numel() for parameter in shapes_of(config).parameters()),
        gflops=(flops_done(config, config.text.context_length) + _unasked(config)) / 1e9,
    )


def flops_done(config: ClipConfig, text_length: int) -> int:
    """Count what clipkit computes of one picture and one text of so many tokens, forward."""
    clip = shapes_of(config).eval()
    with torch.device("meta"):
        images = torch.empty(1, 3, config.image_size, config.image_size)
        tokens = torch.empty(1, text_length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        clip.encode_image(images)
        clip.encode_text(tokens)
    return int(counter.get_total_flops())


def _unasked(config: ClipConfig) -> int:
    # What clipkit leaves out: of the last blocks the projections of the mixtures and the perceptrons.
    text, vision = config.text, config.vision
    unread = _unread(text.context_length, text.width)
    if not isinstance(vision, ResNetConfig):
        return unread + _unread(vision.grid**2 + 1, vision.width)
    # The questions, mixtures and projections of the attention pool.
    width, positions = vision.width * 32, vision.grid**2
    projections = 2 * positions * width * (width + config.embed_dim)
    return unread + projections + 4 * positions * (positions + 1) * width


def _unread(positions: int, width: int) -> int:
    return 2 * (positions - 1) * 9 * width**2
