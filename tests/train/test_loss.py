import math
from functools import partial

import pytest
import torch
from open_clip.loss import ClipLoss
from torch.nn import functional

from clipkit.train.distributed import World
from clipkit.train.loss import clip_loss

ALONE = World(0, 1, torch.device("cpu"))


@pytest.mark.parametrize(("samples", "scale"), [(2, 1.0), (7, 14.3), (32, 100.0)])
def test_loss_and_gradients_equal_open_clips(samples: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(samples)
    raw = [torch.randn(samples, 24, generator=generator) for _ in range(2)]
    results = []
    for loss in (partial(clip_loss, world=ALONE), ClipLoss()):
        leaves = [each.clone().requires_grad_() for each in (*raw, torch.tensor(scale))]
        images_BD, texts_BD = (functional.normalize(each, dim=-1) for each in leaves[:2])
        value = loss(images_BD, texts_BD, leaves[2])
        value.backward()
        results.append([value.detach(), *(each.grad for each in leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_features_that_say_nothing_cost_the_logarithm_of_the_batch() -> None:
    same_BD = functional.normalize(torch.ones(16, 8), dim=-1)
    assert clip_loss(same_BD, same_BD, torch.tensor(10.0), ALONE).item() == pytest.approx(math.log(16))


def test_half_precision_features_are_compared_in_single() -> None:
    generator = torch.Generator().manual_seed(0)
    images_BD, texts_BD = (
        functional.normalize(torch.randn(8, 16, generator=generator), dim=-1).bfloat16() for _ in range(2)
    )
    scale = torch.tensor(100.0)
    loss = clip_loss(images_BD, texts_BD, scale, ALONE)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, clip_loss(images_BD.float(), texts_BD.float(), scale, ALONE))
