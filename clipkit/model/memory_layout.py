"""How tensors lie in memory: channels last where a ResNet computes, in plain order in every file."""

import torch
from torch import Tensor

from clipkit.model.clip import Clip
from clipkit.model.config import ResNetConfig


def fast_layout(clip: Clip) -> Clip:
    """Lay a ResNet's kernels out with the channels last, which convolutions compute fastest, in place.

    Feature maps follow the kernels. Names, shapes and values stay the same; a ViT is left as it is.
    """
    if isinstance(clip.config.vision, ResNetConfig):
        # `channels_last` means B, H, W, C in memory, under the shape (B, C, H, W) as before.
        clip.visual.to(memory_format=torch.channels_last)
    return clip


def plain_layout(tensor: Tensor) -> Tensor:
    """Return the values in rows with the strides that a new tensor has; copied only if they lie otherwise."""
    # The second step is for kernels of 1 × 1: they are contiguous with more than one set of strides.
    return tensor.detach().contiguous().view(-1).view(tensor.shape)


def laid_out_as(values: Tensor, pattern: Tensor) -> Tensor:
    """Return `values` with the strides of `pattern`, which has the same shape; copied if they have others."""
    if values.stride() == pattern.stride():
        return values
    return torch.empty_like(pattern, dtype=values.dtype, device=values.device).copy_(values)
