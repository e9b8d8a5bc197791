"""What the tests of conversions share."""

from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.errors import CheckpointError
from clipkit.model.config import ClipConfig
from clipkit.model.convert import convert
from tests.model.conftest import inputs

OPENAI_MODELS = [
    "RN50",
    "RN101",
    "RN50x4",
    "RN50x16",
    "RN50x64",
    "ViT-B/32",
    "ViT-B/16",
    "ViT-L/14",
    "ViT-L/14@336px",
]


def target_of(source: Path, to: str) -> Path:
    return source.with_name({"safetensors": "result.safetensors", "hf": "result"}.get(to, "result.pt"))


def outputs(model: Any, images: torch.Tensor, tokens: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model.encode_image(images), model.encode_text(tokens), *model(images, tokens)]


def assert_same(one: Any, other: Any, config: ClipConfig, tolerance: float = 1e-5) -> None:
    """Outputs agree, relative to their size, at batch sizes that nothing was traced at."""
    for pictures in (1, 5):
        images, tokens = inputs(config, pictures)
        for x, y in zip(outputs(one, images, tokens), outputs(other, images, tokens), strict=True):
            assert (x - y).abs().max() < tolerance * max(1.0, float(x.abs().max()))


def assert_nothing_written(source: Path, to: str, expected: str, model: str | None = None) -> None:
    target = target_of(source, to)
    before = set(source.parent.iterdir())
    with pytest.raises(CheckpointError) as caught:
        convert(source, target, to, model)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert set(source.parent.iterdir()) == before
