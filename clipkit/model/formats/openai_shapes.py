"""What OpenAI's archives say about their model: its sizes, by three buffers and the shapes of the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from clipkit.errors import CheckpointError, first_fault
from clipkit.locations import decoded
from clipkit.model.config import (
    HEAD_WIDTH,
    STRIDE,
    ClipConfig,
    ResNetConfig,
    TextConfig,
    ViTConfig,
    config_names,
    named_config,
)

BUFFERS = ("input_resolution", "context_length", "vocab_size")


def archives_config(tensors: Mapping[str, Any], path: Path) -> ClipConfig | None:
    """The configuration of an archive of OpenAI's, None if these tensors are not of one.

    By being OpenAI's it says that it computes QuickGELU. Raises CheckpointError for weights that describe no
    CLIP.
    """
    if not all(name in tensors for name in BUFFERS):
        return None
    try:
        config = guessed_config(tensors, decoded(path.stem[:100]))
    except ValidationError as error:
        raise CheckpointError(f"{path} holds no model that clipkit has: {first_fault(error)}") from error
    except KeyError as error:
        raise CheckpointError(f"{path} holds no CLIP of OpenAI's: it lacks {error.args[0]}") from error
    except (IndexError, AttributeError) as error:
        raise CheckpointError(f"{path} holds no CLIP of OpenAI's, going by its shapes") from error
    known = (named_config(name) for name in config_names())
    return next(filter(config.same_shapes, known), config)


def without_buffers(tensors: Mapping[str, Any], config: ClipConfig, path: Path) -> dict[str, Any]:
    """Take the three buffers out, if there are any. Raises CheckpointError where they contradict `config`."""
    sizes = (config.image_size, config.text.context_length, config.text.vocab_size)
    for name, size in zip(BUFFERS, sizes, strict=True):
        found = tensors.get(name, size)
        if isinstance(found, Tensor):
            found = found.item() if found.numel() == 1 else "no number"
        if found != size:
            raise CheckpointError(f"{path} is not a {config.name}: its {name} is {found}, not {size}")
    return {name: value for name, value in tensors.items() if name not in BUFFERS}


def guessed_config(state_dict: Mapping[str, Any], name: str) -> ClipConfig:
    """Read the architecture off the shapes, as the `build_model` of OpenAI's code does."""
    width = state_dict["ln_final.weight"].shape[0]
    context_length, vocab_size = (
        state_dict[key].shape[0] for key in ("positional_embedding", "token_embedding.weight")
    )
    text = TextConfig(
        context_length=context_length,
        vocab_size=vocab_size,
        width=width,
        heads=width // HEAD_WIDTH,
        layers=_count(state_dict, "transformer.resblocks."),
    )
    embed_dim = state_dict["text_projection"].shape[1]
    return ClipConfig(name=name, embed_dim=embed_dim, vision=_guessed_vision(state_dict), text=text)


def _guessed_vision(state_dict: Mapping[str, Any]) -> ResNetConfig | ViTConfig:
    first = state_dict["visual.conv1.weight"]
    if "visual.proj" in state_dict:
        grid = round((state_dict["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        return ViTConfig(
            layers=_count(state_dict, "visual.transformer.resblocks."),
            width=first.shape[0],
            patch_size=first.shape[-1],
            image_size=first.shape[-1] * grid,
        )
    grid = round((state_dict["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    one, two, three, four = (_count(state_dict, f"visual.layer{layer}.") for layer in (1, 2, 3, 4))
    width = state_dict["visual.layer1.0.conv1.weight"].shape[0]
    return ResNetConfig(layers=(one, two, three, four), width=width, image_size=grid * STRIDE)


def _count(state_dict: Mapping[str, Any], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in state_dict if key.startswith(prefix)})
