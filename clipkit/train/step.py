"""One training step, top to bottom.

Shapes: B this process's share of the batch, b a micro-batch of it, C, H, W picture, L tokens, D embedding.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clipkit.model.clip import Clip, ClipOutput, without_padding
from clipkit.model.preprocess import normalize
from clipkit.model.recomputing import statistics_kept
from clipkit.shards.loader import Batch
from clipkit.train.accumulation import backward_in_parts
from clipkit.train.config import Precision
from clipkit.train.distributed import World
from clipkit.train.guards import Guards, Say
from clipkit.train.loss import clip_loss
from clipkit.train.optimizer import set_learning_rate
from clipkit.train.precision import autocast, gradient_scaler
from clipkit.train.schedule import Schedule

_LARGEST_LOGIT_SCALE = math.log(100)


class _Features(nn.Module):
    def __init__(self, model: Clip):
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor, tokens_BL: Tensor) -> ClipOutput:
        return self.model.features(images_BCHW, tokens_BL)


def wrapped_features(model: Clip, world: World, compiled: bool = False) -> nn.Module:
    """Return a module (pictures, tokens) → ClipOutput that averages gradients over the processes.

    Where it is `compiled`, the model itself, and the names of its parameters, stay as they are.
    """
    features = _Features(model)
    if compiled:
        features.compile()
    if world.size == 1:
        return features
    devices = [world.device] if world.device.type == "cuda" else None
    wrapped = DistributedDataParallel(features, device_ids=devices)
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        _settle_buckets(wrapped, model, world)
    return wrapped


def _settle_buckets(wrapped: DistributedDataParallel, model: Clip, world: World) -> None:
    """Let `wrapped` see in which order the gradients come, and leave the model as it was.

    It sums them in buckets, which it forms anew, by that order, after its first backward pass; and the order
    in which numbers of several processes are added depends on where in a bucket they lie. Without this a run
    that goes on from a checkpoint would round its first step otherwise than the run that was not ended.
    """
    config = model.config
    shape = (2, 3, config.image_size, config.image_size)
    images_BCHW = torch.zeros(shape, dtype=model.logit_scale.dtype, device=world.device)
    tokens_BL = torch.ones(2, config.text.context_length, dtype=torch.int64, device=world.device)
    with statistics_kept(model.modules()):
        outputs = [each.sum() for each in wrapped(images_BCHW, tokens_BL) if each.requires_grad]
        torch.stack(outputs).sum().backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)


class StepFigures(NamedTuple):
    """What a step tells, all of it still on the device: this process's part of the loss, and its gradient.

    `norm` is the gradient's L2 norm before clipping, None where nobody asked. `skipped` tells whether the
    weights were left as they are, since in fp16 the gradient was not finite; None in other precisions.
    """

    loss: Tensor
    norm: Tensor | None
    skipped: Tensor | None


@dataclass
class TrainStep:
    """Applies one batch to a model: forward, loss over the global batch, backward, clip, update.

    With `accumulate` K the forward and the backward pass go through K micro-batches one after the other,
    for the same loss of the whole batch. `compiled` features get texts of one length, which is compiled once.
    """

    model: Clip
    features: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    world: World
    precision: Precision
    grad_clip: float | None
    accumulate: int = 1
    compiled: bool = False

    def __post_init__(self) -> None:
        self.scaler = gradient_scaler(self.precision, self.world.device)

    def __call__(self, batch: Batch, step: int, with_norm: bool) -> StepFigures:
        """Train on `batch` as the 0-based `step`; waits for nothing that the device computes."""
        set_learning_rate(self.optimizer, self.schedule(step))
        device = self.world.device
        images_BCHW = batch.images_BCHW.to(device, non_blocking=True)
        tokens_BL = batch.tokens_BL if self.compiled else without_padding(batch.tokens_BL)
        tokens_BL = tokens_BL.to(device, non_blocking=True)

        self.optimizer.zero_grad(set_to_none=True)
        if self.accumulate == 1:
            loss = self._backward(self._forward(self.features, (images_BCHW, tokens_BL)))
        else:
            images, tokens = (each.chunk(self.accumulate) for each in (images_BCHW, tokens_BL))
            parts = [*zip(images, tokens, strict=True)]
            loss = backward_in_parts(self.features, parts, self._forward, self._backward)

        self.scaler.unscale_(self.optimizer)
        norm = self._clip_gradient(with_norm or self.scaler.is_enabled())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.model.logit_scale.requires_grad:
            with torch.no_grad():
                self.model.logit_scale.clamp_(0, _LARGEST_LOGIT_SCALE)
        skipped = ~norm.isfinite() if norm is not None and self.scaler.is_enabled() else None
        return StepFigures(loss.detach(), norm, skipped)

    def guards(self, batch_size: int, say: Say) -> Guards:
        """Return what warns of batches and losses from which nothing of this kind is learned."""
        return Guards(batch_size, self.schedule.warmup, say)

    def loss(self, output: Any) -> Tensor:
        """Return the loss of what `features` gave for a batch."""
        images_BD, texts_BD, scale = output
        return clip_loss(images_BD, texts_BD, scale, self.world)

    def _forward(self, features: nn.Module, part: tuple[Tensor, Tensor]) -> Any:
        images_bCHW, tokens_bL = part
        with autocast(self.precision, self.world.device):
            return features(normalize(images_bCHW), tokens_bL)

    def _backward(self, output: Any) -> Tensor:
        loss = self.loss(output)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss

    def _clip_gradient(self, with_norm: bool) -> Tensor | None:
        if self.grad_clip is not None:
            return nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
        if not with_norm:
            return None
        gradients = [each.grad for each in self.model.parameters() if each.grad is not None]
        return nn.utils.get_total_norm(gradients)
