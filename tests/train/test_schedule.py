from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip_train.scheduler import const_lr, cosine_lr

from clipkit.train.schedule import Schedule


@settings(max_examples=50)
@given(st.integers(0, 50), st.integers(1, 100), st.sampled_from(["cosine", "constant"]))
def test_equals_open_clips_at_every_step(
    warmup: int, rest: int, shape: Literal["cosine", "constant"]
) -> None:
    steps = warmup + rest
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.0)
    peers = {"cosine": cosine_lr, "constant": const_lr}[shape](optimizer, 1e-3, warmup, steps)
    schedule = Schedule(1e-3, warmup, steps, shape)
    assert [schedule(step) for step in range(steps)] == [peers(step) for step in range(steps)]


def test_rises_to_the_peak_and_falls_to_zero() -> None:
    schedule = Schedule(peak=1.0, warmup=4, steps=104)
    assert [schedule(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule(54) == pytest.approx(0.5)
    assert 0 < schedule(103) < 1e-3
