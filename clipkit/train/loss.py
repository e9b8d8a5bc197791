"""CLIP's loss over the global batch (arXiv 2103.00020, figure 3), each process computing only its own rows.

Shapes: B global batch, b this process's share, D embedding.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from clipkit.train.distributed import World
from clipkit.train.precision import not_half


class _GatherRows(torch.autograd.Function):
    """Rows of all processes in rank order; the gradient of a process's rows is the sum over all processes."""

    @staticmethod
    def forward(ctx: Any, rows_bD: Tensor, world: World) -> Tensor:
        ctx.world = world
        return torch.cat(world.gather(rows_bD.contiguous()))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total_BD = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total_BD)
        return total_BD.chunk(ctx.world.size)[ctx.world.rank], None


def clip_loss(images_bD: Tensor, texts_bD: Tensor, logit_scale: Tensor, world: World) -> Tensor:
    """Return the mean symmetric cross-entropy of this process's rows (a scalar, float32 at least).

    The features are L2-normalised, `logit_scale` is exponentiated; every process holds equally many rows. The
    mean of the returned values over all processes is the loss of the global batch, and averaging the
    parameters' gradients over the processes (as DistributedDataParallel does) gives that loss's gradient.
    """
    images_bD, texts_bD = not_half(images_bD), not_half(texts_bD)
    images_BD, texts_BD = images_bD, texts_bD
    if world.size > 1:
        both_B2D = _GatherRows.apply(torch.cat([images_bD, texts_bD], dim=1), world)
        images_BD, texts_BD = both_B2D.chunk(2, dim=1)
    own = images_bD.shape[0]
    target_b = torch.arange(own, device=images_bD.device) + world.rank * own
    of_images = functional.cross_entropy(logit_scale * images_bD @ texts_BD.T, target_b)
    of_texts = functional.cross_entropy(logit_scale * texts_bD @ images_BD.T, target_b)
    return (of_images + of_texts) / 2
