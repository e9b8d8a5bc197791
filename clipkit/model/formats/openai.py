"""OpenAI's file format: a TorchScript archive that unpatched `clip.load` opens, either way.

It holds the weights under OpenAI's names, the buffers `input_resolution`, `context_length` and `vocab_size`,
and the traced methods `encode_image`, `encode_text` and `forward`. With `jit=False` OpenAI's code takes only
the weights and guesses the architecture from their shapes.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipkit.locations import decoded
from clipkit.model.clip import Clip
from clipkit.model.config import HEAD_WIDTH, OPENAI_CONTEXT_LENGTH, OPENAI_VOCABULARY
from clipkit.model.formats.openai_shapes import BUFFERS, guessed_config
from clipkit.model.weights import StateDict, Weights, assemble

LARGEST_HALF = 65_504.0

# With jit=True OpenAI's code rewrites the constants in the graphs of these methods and of every module's
# forward, by a way that newer PyTorch has closed. So these hold no constant, only a call, and no module below
# has a forward.
METHODS = (
    "def encode_image(self, image): return self.image_tower(image)\n",
    "def encode_text(self, text): return self.text_tower(text)\n",
    "def forward(self, image, text): return self.both_towers(image, text)\n",
)


def refusal(clip: Clip) -> str | None:
    """Why OpenAI's format cannot express this model; None if it can."""
    config = clip.config
    text = config.text
    if config.activation != "quick_gelu":
        return f"it always computes QuickGELU, and {config.name} was made for {config.activation}"
    if (text.context_length, text.vocab_size) != (OPENAI_CONTEXT_LENGTH, OPENAI_VOCABULARY):
        found = f"{text.context_length} tokens of {text.vocab_size} in {config.name}"
        return f"its texts are {OPENAI_CONTEXT_LENGTH} tokens of {OPENAI_VOCABULARY}, not {found}"
    if text.heads * HEAD_WIDTH != text.width:
        return f"its heads are {HEAD_WIDTH} wide, those of {config.name} {text.width // text.heads}"
    for name, weight in _rounded_tensors(clip).items():
        if not bool((weight.abs() <= LARGEST_HALF).all()):
            return f"it rounds weights to float16, and {name} is beyond that range"
    return None


def write(clip: Clip, path: Path) -> None:
    """Trace `clip` and write the archive. Raises OSError as the file system does."""
    archive = _Archive(clip)
    images = torch.zeros(2, 3, clip.config.image_size, clip.config.image_size)
    tokens = torch.zeros(2, clip.context_length, dtype=torch.int64)
    tokens[:, 1] = clip.vocab_size - 1
    inputs = {"image_tower": images, "text_tower": tokens, "both_towers": (images, tokens)}
    with path.open("wb") as opened, _torchscript() as jit:
        with torch.no_grad():
            traced = jit.trace_module(archive, inputs, check_trace=False)
        for method in METHODS:
            traced.define(method)
        jit.save(traced, opened)


def reopen(path: Path, name: str) -> Iterator[nn.Module]:
    """Open an archive that clipkit has just written: as `jit=True` does, and, unrounded, as `jit=False`."""
    # OpenAI's code gives torch the open file, which it then holds twice over; a name takes less memory, but
    # torch knows only those that are UTF-8.
    with _torchscript() as jit, path.open("rb") as opened:
        named = path if decoded(str(path)) == str(path) else opened
        traced: nn.Module = jit.load(named, map_location="cpu")
    yield traced
    state_dict = {key: value for key, value in traced.state_dict().items() if key not in BUFFERS}
    yield assemble(Weights(guessed_config(state_dict, name), state_dict), path)


def rounded(clip: Clip) -> Clip:
    """Round what OpenAI's `clip.load(jit=False)` rounds to float16, in a copy that stays float32."""
    halves = {name: weight.half().float() for name, weight in _rounded_tensors(clip).items()}
    return assemble(Weights(clip.config, {**clip.state_dict(), **halves}), Path(clip.config.name))


class _Archive(nn.Module):
    """The tree of OpenAI's names without code, and three methods to trace; the model is no part of it."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self._hidden = (clip,)
        for name, parameter in clip.named_parameters():
            holder, last = self._holder(name)
            holder.register_parameter(last, parameter)
        for name, buffer in clip.named_buffers():
            holder, last = self._holder(name)
            holder.register_buffer(last, buffer)
        values = (clip.config.image_size, clip.context_length, clip.vocab_size)
        for name, value in zip(BUFFERS, values, strict=True):
            self.register_buffer(name, torch.tensor(value))

    def image_tower(self, images_BCHW: Tensor) -> Tensor:
        return self._hidden[0].encode_image(images_BCHW)

    def text_tower(self, tokens_BL: Tensor) -> Tensor:
        return self._hidden[0].encode_text(tokens_BL)

    def both_towers(self, images_BCHW: Tensor, tokens_NL: Tensor) -> tuple[Tensor, Tensor]:
        logits: tuple[Tensor, Tensor] = self._hidden[0](images_BCHW, tokens_NL)
        return logits

    def _holder(self, name: str) -> tuple[nn.Module, str]:
        holder: nn.Module = self
        *parents, last = name.split(".")
        for parent in parents:
            if parent not in dict(holder.named_children()):
                holder.add_module(parent, nn.Module())
            holder = holder.get_submodule(parent)
        return holder, last


@contextmanager
def _torchscript() -> Iterator[Any]:
    # Deprecated in PyTorch, but it is what OpenAI's files are.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        yield torch.jit


def _rounded_tensors(clip: Clip) -> StateDict:
    # Convolutions, linear layers and attention, and the two projections; no norms, embeddings or positions.
    names = set()
    for prefix, module in clip.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            names |= {f"{prefix}.weight", f"{prefix}.bias"}
    whole = ("in_proj_weight", "in_proj_bias", "text_projection", "visual.proj")
    return {k: v for k, v in clip.state_dict().items() if k in names or k.endswith(whole)}
