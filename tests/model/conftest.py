import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from clipkit.errors import CheckpointError
from clipkit.model.checkpoint import Checkpoint, save_checkpoint
from clipkit.model.clip import Clip, build
from clipkit.model.config import ClipConfig, ResNetConfig, TextConfig, ViTConfig, named_config
from clipkit.model.formats.openai_shapes import BUFFERS
from tests.threads import one_thread as one_thread

os.environ["HF_HUB_OFFLINE"] = "1"  # before any of its packages is imported, OpenCLIP's too


@pytest.fixture(scope="session")
def openai_clip() -> Any:
    """OpenAI's package, whose import warns about pkg_resources."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import clip
        import clip.model
    return clip


@pytest.fixture(scope="session")
def open_clip() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import open_clip
    return open_clip


@pytest.fixture(scope="session")
def transformers() -> Any:
    """Hugging Face's package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
        from transformers.utils import logging
    logging.disable_progress_bar()
    return transformers


MICRO = named_config("ViT-Micro/16@32px")
TEXT = TextConfig(width=64, heads=1, layers=2)
SMALL = {
    "vit": ClipConfig(
        name="a small ViT",
        embed_dim=64,
        vision=ViTConfig(layers=2, width=128, patch_size=8, image_size=32),
        text=TEXT,
    ),
    "resnet": ClipConfig(
        name="a small ResNet",
        embed_dim=64,
        vision=ResNetConfig(layers=(1, 2, 1, 1), width=32, image_size=64),
        text=TEXT,
    ),
}


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest) -> ClipConfig:
    """One layer deep or two, and every kind of layer: a ViT, then a ResNet."""
    return SMALL[request.param]


def trained_looking(config: ClipConfig, seed: int = 0) -> Clip:
    """A model whose norms and biases are not at their neutral first values, so that every weight matters."""
    clip = build(config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in clip.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif name.endswith(("bias", "running_mean")):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
            elif ".bn" in name or ".ln_" in name or ".downsample.1.weight" in name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.5)
    return clip.eval()


def openai_peer(openai_clip: Any, config: ClipConfig) -> nn.Module:
    """The same architecture in OpenAI's own code, drawn from the global generator."""
    vision, text = config.vision, config.text
    patch_size = vision.patch_size if isinstance(vision, ViTConfig) else None
    model: nn.Module = openai_clip.model.CLIP(
        config.embed_dim,
        *(vision.image_size, vision.layers, vision.width, patch_size),
        *(text.context_length, text.vocab_size, text.width, text.heads, text.layers),
    )
    return model.eval()


def inputs(config: ClipConfig, pictures: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Seeded pictures, and texts with their ends at the last place, in the middle, and at once."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(pictures, 3, config.image_size, config.image_size, generator=generator)
    length, vocabulary = config.text.context_length, config.text.vocab_size
    tokens = torch.randint(1, vocabulary - 2, (4, length), generator=generator)
    for row, end in enumerate((length - 1, length // 2, 1, 9)):
        tokens[row, end] = vocabulary - 1
        tokens[row, end + 1 :] = 0
    return images, tokens


def short_texts(config: ClipConfig) -> torch.Tensor:
    """Texts that end at places 0, 1, 9 and 15; the last two have more ends after it, and other tokens."""
    length, vocabulary = config.text.context_length, config.text.vocab_size
    tokens = torch.randint(1, vocabulary - 2, (4, length), generator=torch.Generator().manual_seed(2))
    for row, end in enumerate((0, 1, 9, 15)):
        tokens[row, end] = vocabulary - 1
    tokens[:2, 2:] = 0
    tokens[2:, 20] = tokens[2:, -1] = vocabulary - 1
    return tokens


def a_checkpoint(config: ClipConfig = MICRO, **changes: Any) -> Checkpoint:
    clip = trained_looking(config)
    return Checkpoint(
        **{
            "epoch": 2,
            "name": "a-run",
            "state_dict": clip.state_dict(),
            "model_config": config.model_dump(mode="json"),
            "optimizer": {
                "state": {0: {"step": torch.tensor(3.0)}},
                "param_groups": [{"betas": (0.9, 0.98)}],
            },
            "step": 7,
            "position": 1_234_567_890_123,
            "rng": {"cpu": torch.random.get_rng_state()},
            "train_config": {"lr": 5e-4, "seed": 0},
            **changes,
        }
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "epoch_2.pt"
    save_checkpoint(path, a_checkpoint())
    return path


def written(clip: Clip, path: Path) -> Path:
    config = clip.config.model_dump(mode="json")
    save_checkpoint(path, Checkpoint(3, "a-run", dict(clip.state_dict()), config, optimizer={"state": {}}))
    return path


@pytest.fixture
def source(tmp_path: Path, small: ClipConfig) -> Path:
    return written(trained_looking(small), tmp_path / "source.pt")


def one_line(call: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(saved: Path, **changes: Any) -> Path:
    raw = torch.load(saved, weights_only=True) | changes
    path = saved.with_name("changed.pt")
    torch.save({key: value for key, value in raw.items() if value is not ...}, path)
    return path


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth colours under some noise, in any of Pillow's modes."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (height // 8 + 2, width // 8 + 2, 4), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noisy = (smooth + generator.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(noisy[:, :, 0].astype(np.uint16) * 257)
    return Image.fromarray(noisy if mode in ("RGBA", "LA") else noisy[:, :, :3]).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


@pytest.fixture(scope="session")
def openai_archive(openai_clip: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as OpenAI published theirs: their own model traced, three numbers beside the weights.

    Its weights are halves, as theirs are: so nothing is lost when their package rounds them.
    """
    model: Any = openai_peer(openai_clip, MICRO)
    weights = {name: tensor.half().float() for name, tensor in trained_looking(MICRO).state_dict().items()}
    model.load_state_dict(weights)
    sizes = (MICRO.image_size, MICRO.text.context_length, MICRO.text.vocab_size)
    for name, size in zip(BUFFERS, sizes, strict=True):
        vars(model).pop(name, None)
        model.register_buffer(name, torch.tensor(size))
    path = tmp_path_factory.mktemp("openai") / "tiny.pt"
    jit: Any = torch.jit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; OpenAI's code is not ours
        jit.save(jit.trace(model, inputs(MICRO, 1), check_trace=False), str(path))
    return path
