"""The gradient of one loss over several micro-batches, with the memory of one of them.

As in GradCache (Gao et al. 2021, arXiv 2101.06983): a first pass computes the features of all micro-batches
and keeps nothing else; the loss over all of them together gives the gradient of each feature; a second pass
computes each micro-batch again and carries its part of that into the weights. Both passes compute the same:
the networks draw nothing at random, and each micro-batch is normalised with its own statistics in both. The
running statistics of batch norm are updated by the second pass alone, once for each micro-batch.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clipkit.model.clip import ClipOutput
from clipkit.model.recomputing import statistics_kept

Part = TypeVar("Part")


def backward_in_parts(
    features: nn.Module,
    parts: Sequence[Part],
    forward: Callable[[nn.Module, Part], ClipOutput],
    backward: Callable[[ClipOutput], Tensor],
) -> Tensor:
    """Add the gradients of `backward`'s loss over all `parts` to the weights; return that loss.

    `forward(module, part)` computes a part's features with `features`, or with the module that it wraps;
    `backward(output)` computes the loss of all features and its gradients by them, and returns it. Processes
    average their gradients once, with the last part.
    """
    plain = features.module if isinstance(features, DistributedDataParallel) else features
    with torch.no_grad(), statistics_kept(plain.modules()):
        outputs = [forward(plain, part) for part in parts]
    sizes = [len(output.image_features_BD) for output in outputs]
    images_BD, texts_BD, scale = (
        each.requires_grad_()
        for each in (
            torch.cat([output.image_features_BD for output in outputs]),
            torch.cat([output.text_features_BD for output in outputs]),
            outputs[0].logit_scale,
        )
    )
    loss = backward(ClipOutput(images_BD, texts_BD, scale))
    assert images_BD.grad is not None and texts_BD.grad is not None
    rows = zip(torch.split(images_BD.grad, sizes), torch.split(texts_BD.grad, sizes), strict=True)
    for number, (part, gradients) in enumerate(zip(parts, rows, strict=True), 1):
        is_last = number == len(parts)
        with nullcontext() if is_last else _no_average(features):
            output = forward(features, part)
            # The scale is one number, not one of each part: it gets the whole of its gradient once.
            pairs = zip(output, (*gradients, scale.grad if is_last else None), strict=True)
            wanted = [(each, grad) for each, grad in pairs if each.requires_grad and grad is not None]
            torch.autograd.backward([each for each, _ in wanted], [grad for _, grad in wanted])
    return loss


def _no_average(features: nn.Module) -> AbstractContextManager[None]:
    return features.no_sync() if isinstance(features, DistributedDataParallel) else nullcontext()
