"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): what is inside a block is computed again.

Only each block's input is kept for the backward pass. Losses, gradients and running statistics are those of a
model that keeps everything.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Blocks(nn.Sequential):
    """Blocks one after the other; where `recomputes` is set, each keeps nothing but its input."""

    recomputes = False

    def forward(self, input: Tensor, last: Callable[[Tensor], Tensor] | None = None) -> Tensor:  # noqa: A002
        """Through all blocks; `last` is the last one with what else it is to be given."""
        x = input
        for block in self:
            compute = last if last is not None and block is self[-1] else block
            x = recomputed(compute, x, block.modules()) if self.recomputes else compute(x)
        return x


def recomputed(compute: Callable[[Tensor], Tensor], x: Tensor, modules: Iterable[nn.Module]) -> Tensor:
    """`compute(x)`, which the backward pass computes again; `modules` are those that it consists of."""
    if not torch.is_grad_enabled():
        return compute(x)
    if torch.compiler.is_compiling():
        # A compiler repeats operations only, and no assignment to a buffer; it takes no contexts of ours.
        return checkpoint(compute, x, use_reentrant=False, preserve_rng_state=False)
    parts = [*modules]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), statistics_kept(parts)  # the first pass has counted the batch

    return checkpoint(compute, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextmanager
def statistics_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let the batch norms among `modules` compute as ever, and update copies of their running statistics."""
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)]
    buffers = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers()]
    for norm, name, buffer in buffers:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in buffers:
            setattr(norm, name, buffer)
