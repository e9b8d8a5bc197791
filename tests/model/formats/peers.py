"""The nine architectures with weights that real peers make: one block deep, or whole (test_whole.py)."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clipkit.model.clip import Clip
from clipkit.model.config import OPENAI_VOCABULARY, STRIDE, ClipConfig, ResNetConfig, named_config
from tests.model.conftest import inputs
from tests.model.conversions import OPENAI_MODELS

LONG = {
    "RN101",
    "RN50x4",
    "RN50x16",
    "RN50x64",
    "ViT-B/16",
    "ViT-L/14",
    "ViT-L/14@336px",
}  # they are like others that are smaller
VISION_TRANSFORMERS = [name for name in OPENAI_MODELS if name.startswith("ViT")]
PICTURES = 2
WHOLE = "CLIPKIT_TEST_WHOLE"


def shallow(name: str, vocab_size: int) -> ClipConfig:
    """The architecture one block deep: of the same widths and patches; pictures of 2 x 2 places."""
    config = named_config(name)
    if isinstance(config.vision, ResNetConfig):
        changes: dict[str, Any] = {"layers": (1, 1, 1, 1), "image_size": 2 * STRIDE}
    else:
        changes = {"layers": 1, "image_size": 2 * config.vision.patch_size}
    vision = config.vision.model_copy(update=changes)
    text = config.text.model_copy(update={"layers": 1, "vocab_size": vocab_size})
    return config.model_copy(update={"name": f"shallow {name}", "vision": vision, "text": text})


def architectures(names: list[str], vocab_size: int = OPENAI_VOCABULARY) -> list[Any]:
    """Parameters of tests: the shallow ones, with so many tokens, or the whole one that WHOLE names."""
    whole = os.environ.get(WHOLE)
    if whole is not None:
        return [pytest.param(named_config(whole), id=whole, marks=pytest.mark.timeout(1_800))]
    marks = {name: [pytest.mark.slow] if name in LONG else [] for name in names}
    return [
        pytest.param(shallow(name, vocab_size), id=f"shallow {name}", marks=marks[name]) for name in names
    ]


@torch.no_grad()
def enlivened(model: nn.Module, encode_image: Callable[[Tensor], Any], config: ClipConfig) -> nn.Module:
    """Move what is neutral at first, so that each weight matters; measure the statistics of batch norms.

    OpenAI's code begins with residual blocks that add nothing, and biases of zero. Blocks that add as much as
    they are given let deep random networks blow up float32's rounding to 3e-5; trained ones add less.
    """
    generator = torch.Generator().manual_seed(0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            largest = 0.3 if name.endswith("bn3") and ".layer" in name else 1.0
            module.weight.copy_((torch.rand(module.weight.shape, generator=generator) + 1) * largest / 2)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    if norms:
        model.train()
        for norm in norms:
            norm.momentum = 1.0
        encode_image(inputs(config, 4)[0])
    return model.eval()


@dataclass(frozen=True)
class Outputs:
    """Features of unit length and logits of the same pictures and texts."""

    images_BD: Tensor
    texts_ND: Tensor
    logits_BN: Tensor

    def assert_alive(self) -> None:
        """Features depend on what they are of."""
        assert (self.images_BD[0] - self.images_BD[1]).abs().max() > 1e-3
        assert (self.texts_ND[0] - self.texts_ND[1]).abs().max() > 1e-3
        assert self.logits_BN.isfinite().all()

    def assert_same(self, other: "Outputs") -> None:
        """Within 1e-5, logits within 1e-4."""
        self.assert_alive()
        assert (self.images_BD - other.images_BD).abs().max() < 1e-5
        assert (self.texts_ND - other.texts_ND).abs().max() < 1e-5
        assert (self.logits_BN - other.logits_BN).abs().max() < 1e-4


@torch.no_grad()
def computed(model: Any, config: ClipConfig) -> Outputs:
    """What a model with OpenAI's methods computes: clipkit's, and that of `clip`."""
    images, tokens = inputs(config, PICTURES)
    if isinstance(model, Clip):
        images_BD, texts_ND, scale = model.features(images, tokens)
        return Outputs(images_BD, texts_ND, scale * images_BD @ texts_ND.t())
    images_BD, texts_ND = model.encode_image(images), model.encode_text(tokens)
    logits_BN, logits_NB = model(images, tokens)
    assert torch.equal(logits_BN, logits_NB.t())
    return Outputs(functional.normalize(images_BD, dim=-1), functional.normalize(texts_ND, dim=-1), logits_BN)


@contextmanager
def place() -> Iterator[Path]:
    """A folder that does not outlive the test: whole models are gigabytes."""
    with TemporaryDirectory(prefix="clipkit-peers-") as folder:
        yield Path(folder)
