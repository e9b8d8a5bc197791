"""Both towers are one graph for torch.compile, forward and backward, with the same results as without it."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from clipkit.model.clip import Clip
from clipkit.model.config import ClipConfig, named_config
from clipkit.model.memory_layout import fast_layout
from tests.model.conftest import inputs, short_texts, trained_looking

BACKENDS = ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
KINDS = ["vit", pytest.param("resnet", marks=pytest.mark.slow)]
TOLERANCE = 1e-5  # of the largest value: a compiler may add up in another order


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < TOLERANCE * expected.abs().max().clamp(min=1.0)


def assert_compiles(clip: Clip, backend: str) -> None:
    # Uncompiled the texts are cut off after their ends, compiled they are not.
    images, tokens = inputs(clip.config)[0], short_texts(clip.config)
    with torch.no_grad():
        for encode, given in ((clip.encode_image, images), (clip.encode_text, tokens)):
            assert_same(torch.compile(encode, fullgraph=True, backend=backend)(given), encode(given))


@pytest.mark.slow  # of both in a training step, as below
@pytest.mark.parametrize("small", KINDS, indirect=True)
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_tower_is_one_graph(small: ClipConfig, backend: str) -> None:
    assert_compiles(fast_layout(trained_looking(small)), backend)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["RN50", "ViT-B/32"])
def test_each_tower_of_a_whole_model_is_one_graph(name: str) -> None:
    assert_compiles(fast_layout(trained_looking(named_config(name))), "inductor")


@pytest.mark.parametrize("recomputes", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("small", KINDS, indirect=True)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_training_step_is_one_graph(small: ClipConfig, backend: str, recomputes: bool) -> None:
    plain = fast_layout(trained_looking(small)).train()
    other = copy.deepcopy(plain)
    other.set_gradient_checkpointing(recomputes)
    compiled = torch.compile(other.features, fullgraph=True, backend=backend)
    loss, again = gradient_step(plain, plain.features), gradient_step(other, compiled)
    assert again == pytest.approx(loss, abs=TOLERANCE)
    mine, theirs = (
        torch.cat([each.grad.flatten() for each in clip.parameters() if each.grad is not None])
        for clip in (plain, other)
    )
    assert (mine - theirs).norm() < 0.01 * mine.norm()
    buffers = dict(other.named_buffers())
    for name, expected in plain.named_buffers():
        assert_same(buffers[name].float(), expected.float())


def gradient_step(clip: Clip, features: Any) -> float:
    images, tokens = inputs(clip.config, pictures=4)
    output = features(images, tokens)
    logits = output.logit_scale * output.image_features_BD @ output.text_features_BD.t()
    loss = functional.cross_entropy(logits, torch.arange(4))
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()
