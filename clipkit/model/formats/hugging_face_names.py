"""Which tensor of Hugging Face's `CLIPModel` is which of OpenAI's CLIP: a table with two directions.

OpenAI multiplies by its two projections where `CLIPModel` has linear layers, whose weights lie the other way
round; and it keeps queries, keys and values as one matrix, `CLIPModel` as three.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clipkit.model.config import ClipConfig

POSITION_IDS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
"""Counting from 0, stored by older versions: no weights."""

_TRANSPOSED = (
    ("visual.proj", "visual_projection.weight"),
    ("text_projection", "text_projection.weight"),
)
_ONCE = (
    ("logit_scale", "logit_scale"),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
)
_NORMS = (
    ("visual.ln_pre", "vision_model.pre_layrnorm"),  # spelt so there
    ("visual.ln_post", "vision_model.post_layernorm"),
    ("ln_final", "text_model.final_layer_norm"),
)
_TOWERS = (
    ("visual.transformer.resblocks", "vision_model.encoder.layers"),
    ("transformer.resblocks", "text_model.encoder.layers"),
)
_IN_EACH_BLOCK = (
    ("ln_1", "layer_norm1"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)
_JOINED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


@dataclass(frozen=True)
class Pairing:
    """One tensor of OpenAI's, and the one that holds it in `CLIPModel`, or the three that it is made of."""

    ours: str
    theirs: tuple[str, ...]
    transposed: bool = False


def pairings(config: ClipConfig) -> Iterator[Pairing]:
    """Every tensor of a model with a vision transformer."""
    for ours, theirs in _TRANSPOSED:
        yield Pairing(ours, (theirs,), transposed=True)
    for ours, theirs in _ONCE:
        yield Pairing(ours, (theirs,))
    for ours, theirs in _NORMS:
        yield from _weight_and_bias(ours, theirs)
    for (our_tower, their_tower), layers in zip(
        _TOWERS, (config.vision.layers, config.text.layers), strict=True
    ):
        assert isinstance(layers, int)
        for layer in range(layers):
            yield from _block(f"{our_tower}.{layer}", f"{their_tower}.{layer}")


def to_theirs(state_dict: Mapping[str, Tensor], config: ClipConfig) -> dict[str, Tensor]:
    """OpenAI's tensors under the names, and in the shapes, of `CLIPModel`."""
    tensors: dict[str, Tensor] = {}
    for pairing in pairings(config):
        tensor = state_dict[pairing.ours]
        tensor = tensor.t() if pairing.transposed else tensor
        parts = tensor.chunk(len(pairing.theirs)) if len(pairing.theirs) > 1 else (tensor,)
        tensors |= zip(pairing.theirs, parts, strict=True)
    return tensors


def to_ours(tensors: dict[str, Tensor], config: ClipConfig) -> dict[str, Tensor]:
    """`CLIPModel`'s tensors, all there and in their shapes, under OpenAI's names: what `to_theirs` undoes.

    They are taken out of `tensors`, so that what is joined is not held twice.
    """
    state_dict: dict[str, Tensor] = {}
    for pairing in pairings(config):
        parts = [tensors.pop(name) for name in pairing.theirs]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        state_dict[pairing.ours] = tensor.t() if pairing.transposed else tensor
    return state_dict


def _block(ours: str, theirs: str) -> Iterator[Pairing]:
    for our_part, their_part in _IN_EACH_BLOCK:
        yield from _weight_and_bias(f"{ours}.{our_part}", f"{theirs}.{their_part}")
    for kind in ("weight", "bias"):
        joined = tuple(f"{theirs}.{part}.{kind}" for part in _JOINED)
        yield Pairing(f"{ours}.attn.in_proj_{kind}", joined)


def _weight_and_bias(ours: str, theirs: str) -> Iterator[Pairing]:
    for kind in ("weight", "bias"):
        yield Pairing(f"{ours}.{kind}", (f"{theirs}.{kind}",))
