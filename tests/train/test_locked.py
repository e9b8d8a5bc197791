"""Locked towers: what is left as it is, and that the other one trains as it would anyway."""

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from clipkit.model.clip import Clip, build
from clipkit.model.config import ClipConfig
from clipkit.train.config import TrainConfig
from tests.train.test_step import RESNET, VIT, make_batch, make_step

LOCKS = pytest.mark.parametrize("lock", [Clip.lock_image, Clip.lock_text], ids=["image", "text"])


def is_locked(name: str, lock: Callable[[Clip], None]) -> bool:
    if name == "logit_scale":
        return False
    return name.startswith("visual.") == (lock is Clip.lock_image)


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])
@LOCKS
def test_a_locked_tower_stays_and_all_else_is_trained(
    config: ClipConfig, lock: Callable[[Clip], None]
) -> None:
    model = build(config, seed=1)
    lock(model)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    step = make_step(model)
    for number in range(3):
        step(make_batch(number), number, with_norm=False)
        model.eval()  # an evaluation comes between
        model.train()
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    assert changed == {name for name in before if not is_locked(name, lock)}
    held = {id(each) for group in step.optimizer.param_groups for each in group["params"]}
    assert held == {id(each) for name, each in model.named_parameters() if not is_locked(name, lock)}


@LOCKS
def test_the_other_tower_gets_the_gradient_that_it_would_get_anyway(lock: Callable[[Clip], None]) -> None:
    gradients: list[dict[str, Tensor]] = []
    for locked in (False, True):
        model = build(VIT, seed=1)
        if locked:
            lock(model)
        make_step(model)(make_batch(0), 0, with_norm=False)
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[1].keys() == {name for name in gradients[0] if not is_locked(name, lock)}
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradient, gradients[0][name], rtol=0, atol=1e-7, msg=name)


def test_a_locked_resnet_normalises_with_its_stored_statistics() -> None:
    model = build(RESNET, seed=1)
    images = torch.randn(4, 3, 32, 32)
    expected = model.eval().encode_image(images)
    model.lock_image()
    assert not model.training
    torch.testing.assert_close(model.train().encode_image(images), expected, rtol=0, atol=0)


def test_two_locked_towers_are_refused() -> None:
    with pytest.raises(ValidationError, match="together leave nothing to train: give one of them"):
        TrainConfig(lock_image=True, lock_text=True)
