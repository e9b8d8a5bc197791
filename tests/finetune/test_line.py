"""Weights between two ends."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.finetune.line import Weights, between
from clipkit.model.clip import build
from clipkit.model.config import named_config


def test_the_ends_are_the_very_weights() -> None:
    zero = Weights({"a": torch.tensor([-0.0, 1.5])}, torch.tensor([[0.1]]))
    one = Weights({"a": torch.tensor([float("inf"), 2.0])}, torch.tensor([[0.3]]))
    assert between(zero, one, 0) is zero
    assert between(zero, one, 1) is one


@settings(deadline=None)  # a busy machine
@given(st.floats(0.01, 0.99))
def test_all_between_is_on_the_straight_line(alpha: float) -> None:
    zero, one = (Weights({"a": torch.randn(4)}, torch.randn(3, 2)) for _ in range(2))
    found = between(zero, one, alpha)
    for mixed, low, high in (
        (found.visual["a"], zero.visual["a"], one.visual["a"]),
        (found.head_DN, zero.head_DN, one.head_DN),
    ):
        assert torch.allclose(mixed, torch.lerp(low, high, alpha), atol=1e-6)


def test_running_statistics_are_interpolated_like_weights() -> None:
    clip = build(named_config("RN-Mini@64px"), seed=0)
    zero = Weights.of(clip, torch.zeros(128, 2))
    clip.visual.train()
    for _ in range(3):
        clip.encode_image(torch.randn(4, 3, 64, 64))
    one = Weights.of(clip, torch.ones(128, 2))
    found = between(zero, one, 0.5)
    name = "bn1.running_mean"
    assert not torch.equal(one.visual[name], zero.visual[name])
    assert torch.equal(found.visual[name], 0.5 * zero.visual[name] + 0.5 * one.visual[name])
    assert found.visual["bn1.num_batches_tracked"].item() == 2  # of 3, rounded to even
    assert found.visual["bn1.num_batches_tracked"].dtype == torch.int64
    found.put_into(clip)
    assert torch.equal(clip.visual.state_dict()[name], found.visual[name])
    assert torch.equal(zero.visual[name], torch.zeros_like(zero.visual[name]))  # a copy
