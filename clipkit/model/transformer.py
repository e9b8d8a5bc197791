"""The residual attention blocks of both towers, with the parameter names of OpenAI's CLIP.

Of the last block one row of each sequence is read, and it computes no other: with 12 layers that is 7% less.

B batch, L sequence length, H heads, D width.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipkit.model.recomputing import Blocks

Activation = Literal["quick_gelu", "gelu"]
Read = Callable[[Tensor], Tensor]
"""Picks what is read of a sequence: (B, L, D) → (B, D)."""


def all_rows(x_BLD: Tensor) -> Tensor:
    """Read everything."""
    return x_BLD


class LayerNorm(nn.LayerNorm):
    """Layer normalisation that gives back the type it was given: autocast computes it in float32."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
        """Normalise the last dimension."""
        return super().forward(input).to(input.dtype)


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), the approximation of GELU that OpenAI's weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to each element."""
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head self-attention through PyTorch's fused kernel; parameters as in nn.MultiheadAttention."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        self.causal = causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_BLD: Tensor, read: Read = all_rows) -> Tensor:
        """Attend over L: (B, L, D) → what is read of (B, L, D)."""
        projected = functional.linear(x_BLD, self.in_proj_weight, self.in_proj_bias)
        parted = projected.view(*x_BLD.shape[:2], 3, self.heads, self.head_width)
        q, k, v = parted.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out: Tensor = self.out_proj(read(mixed.transpose(1, 2).flatten(2)))
        return out


class ResidualAttentionBlock(nn.Module):
    """Attention, then a two-layer perceptron, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, causal: bool, activation: Activation) -> None:
        super().__init__()
        self.attn = Attention(width, heads, causal)
        self.ln_1 = LayerNorm(width)
        hidden = QuickGELU() if activation == "quick_gelu" else nn.GELU()
        layers = [
            ("c_fc", nn.Linear(width, 4 * width)),
            ("gelu", hidden),
            ("c_proj", nn.Linear(4 * width, width)),
        ]
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = LayerNorm(width)

    def forward(self, x_BLD: Tensor, read: Read = all_rows) -> Tensor:
        """(B, L, D) → what is read of (B, L, D)."""
        x = read(x_BLD) + self.attn(self.ln_1(x_BLD), read)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    """A stack of residual attention blocks."""

    def __init__(self, width: int, layers: int, heads: int, causal: bool, activation: Activation) -> None:
        super().__init__()
        blocks = (ResidualAttentionBlock(width, heads, causal, activation) for _ in range(layers))
        self.resblocks = Blocks(*blocks)

    def forward(self, x_BLD: Tensor, read: Read = all_rows) -> Tensor:
        """(B, L, D) → what is read of (B, L, D)."""
        out: Tensor = self.resblocks(x_BLD, partial(self.resblocks[-1], read=read))
        return out
