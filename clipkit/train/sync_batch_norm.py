"""Batch norm over the samples of all processes (Ioffe and Szegedy 2015; Peng et al. 2018, arXiv 1711.07240).

On CUDA it is PyTorch's own; that one has no kernels for the CPU, where the one here computes the same.

Shapes: W processes, B this process's share, C channels, H, W feature map.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from clipkit.model.clip import Clip
from clipkit.train.distributed import World
from clipkit.train.precision import not_half


def synchronize_batch_norm(model: Clip, world: World) -> Clip:
    """Let the model's batch norms take their statistics over all processes, in place.

    Parameters and buffers stay the very same, under the same names. One process alone changes nothing.
    """
    if world.size == 1:
        return model
    if world.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return,no-untyped-call]
    for parent in [*model.modules()]:
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, SynchronizedBatchNorm2d(child, world))
    return model


def keep_the_compiler_out() -> None:
    """Have torch.compile leave these batch norms as they are; as a decorator, that imports the compiler."""
    left_alone = torch.compiler.disable(SynchronizedBatchNorm2d.forward)  # type: ignore[no-untyped-call]
    setattr(SynchronizedBatchNorm2d, "forward", left_alone)  # noqa: B010 (a method, for the type checker)


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """What `norm` is, parameters and buffers included, over equally large shares of all processes.

    In evaluation mode it is the plain one.
    """

    def __init__(self, norm: nn.BatchNorm2d, world: World):
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.__dict__.update({name: getattr(norm, name) for name in ("_parameters", "_buffers", "training")})
        self._world = world

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
        """(B, C, H, W) → (B, C, H, W)."""
        if not self.training:
            return super().forward(input)
        output, mean_C, variance_C = _Normalize.apply(input, self.weight, self.bias, self.eps, self._world)
        samples = input.numel() // self.num_features * self._world.size
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(variance_C * (samples / (samples - 1)), self.momentum)
        normalized: Tensor = output
        return normalized


class _Normalize(torch.autograd.Function):
    """(x, gain, bias) → normalised x, and the mean and the biased variance that it was normalised with."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float, world: World
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = not_half(x_BCHW)
        variance_C, mean_C = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        means_WC, variances_WC = torch.stack(world.gather(torch.stack([mean_C, variance_C]))).unbind(1)
        # Chan et al. 1983: variances of parts add up about the common mean, without cancellation.
        mean_C = means_WC.mean(0)
        variance_C = (variances_WC + (means_WC - mean_C) ** 2).mean(0)
        ctx.save_for_backward(x_BCHW, weight_C, mean_C, torch.rsqrt(variance_C + eps))
        ctx.world_size = world.size
        ctx.mark_non_differentiable(mean_C, variance_C)
        output = functional.batch_norm(x, mean_C, variance_C, weight_C, bias_C, training=False, eps=eps)
        return output.to(x_BCHW.dtype), mean_C, variance_C

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x_BCHW, weight_C, mean_C, inverse_C = ctx.saved_tensors
        gradient = not_half(gradients[0])
        normalized = (not_half(x_BCHW) - _over_map(mean_C)) * _over_map(inverse_C)
        bias_grad_C, weight_grad_C = gradient.sum((0, 2, 3)), (gradient * normalized).sum((0, 2, 3))
        # The statistics are those of all samples: what they pass back is the sum over all processes.
        totals_2C = torch.stack([bias_grad_C, weight_grad_C])
        dist.all_reduce(totals_2C)
        mean_2C = totals_2C / (x_BCHW.numel() // len(mean_C) * ctx.world_size)
        centred = gradient - _over_map(mean_2C[0]) - normalized * _over_map(mean_2C[1])
        x_grad = centred * _over_map(inverse_C * weight_C)
        return x_grad.to(x_BCHW.dtype), weight_grad_C, bias_grad_C, None, None


def _over_map(values_C: Tensor) -> Tensor:
    return values_C[None, :, None, None]
