"""One training step, top to bottom.

Shapes: B this process's share of the batch, C, H, W picture, L tokens, D embedding.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clipkit.model.clip import Clip, ClipOutput, without_padding
from clipkit.model.preprocess import normalize
from clipkit.shards.loader import Batch
from clipkit.train.distributed import World
from clipkit.train.loss import clip_loss
from clipkit.train.optimizer import set_learning_rate
from clipkit.train.schedule import Schedule

_LARGEST_LOGIT_SCALE = math.log(100)


class _Features(nn.Module):
    def __init__(self, model: Clip):
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor, tokens_BL: Tensor) -> ClipOutput:
        return self.model.features(images_BCHW, tokens_BL)


def wrapped_features(model: Clip, world: World) -> nn.Module:
    """Return a module (pictures, tokens) → ClipOutput that averages gradients over the processes."""
    features = _Features(model)
    if world.size == 1:
        return features
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(features, device_ids=devices)


@dataclass
class TrainStep:
    """Applies one batch to a model: forward, loss over the global batch, backward, clip, update."""

    model: Clip
    features: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    world: World
    precision: str
    grad_clip: float | None

    def __call__(self, batch: Batch, step: int, with_norm: bool) -> tuple[Tensor, Tensor | None]:
        """Train on `batch` as the 0-based `step`; waits for nothing that the device computes.

        Returns this process's part of the loss and, `with_norm`, the gradient's L2 norm before clipping.
        """
        set_learning_rate(self.optimizer, self.schedule(step))
        device = self.world.device
        images_BCHW = normalize(batch.images_BCHW.to(device, non_blocking=True))
        tokens_BL = without_padding(batch.tokens_BL).to(device, non_blocking=True)

        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output: ClipOutput = self.features(images_BCHW, tokens_BL)
        loss = clip_loss(*output, self.world)

        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = self._clip_gradient(with_norm)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, _LARGEST_LOGIT_SCALE)
        return loss.detach(), norm

    def _clip_gradient(self, with_norm: bool) -> Tensor | None:
        if self.grad_clip is not None:
            return nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
        if not with_norm:
            return None
        gradients = [each.grad for each in self.model.parameters() if each.grad is not None]
        return nn.utils.get_total_norm(gradients)
