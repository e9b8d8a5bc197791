"""Gradient checkpointing changes what is kept for the backward pass, and nothing that comes of it."""

import copy
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from clipkit.model.clip import Clip
from clipkit.model.config import ClipConfig
from clipkit.model.recomputing import Blocks
from tests.model.conftest import inputs, trained_looking


class Step(NamedTuple):
    loss: float
    gradients: dict[str, Tensor | None]
    state: dict[str, Tensor]
    kept_bytes: int


def one_step(clip: Clip) -> Step:
    """Forward and backward; `kept_bytes` counts what the graph holds between them, weights left out."""
    images, tokens = inputs(clip.config, pictures=4)
    weights = {each.data_ptr() for each in clip.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = clip.features(images, tokens)
        logits = output.logit_scale * output.image_features_BD @ output.text_features_BD.t()
        loss = functional.cross_entropy(logits, torch.arange(4))
    kept_bytes = sum(each.untyped_storage().nbytes() for each in kept.values())
    kept.clear()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in clip.named_parameters()}
    return Step(loss.item(), gradients, clip.state_dict(), kept_bytes)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation mode"])
def test_losses_gradients_and_statistics_are_bit_for_bit_the_same(small: ClipConfig, training: bool) -> None:
    clip = trained_looking(small).train(training)
    again = copy.deepcopy(clip)
    again.set_gradient_checkpointing(True)
    one, other = one_step(clip), one_step(again)
    assert one.loss == other.loss
    for mine, theirs in ((one.gradients, other.gradients), (one.state, other.state)):
        assert [name for name, value in mine.items() if not _equal(value, theirs[name])] == []
    counts = [value for name, value in other.state.items() if name.endswith("num_batches_tracked")]
    assert set(map(int, counts)) <= {int(training)}
    # Blocks of two layers and four: deeper models save more.
    assert other.kept_bytes < one.kept_bytes / 5


def test_each_block_runs_twice_and_once_without_a_gradient(small: ClipConfig) -> None:
    clip = trained_looking(small)
    clip.set_gradient_checkpointing(True)
    calls: list[str] = []
    blocks = [block for each in clip.modules() if isinstance(each, Blocks) for block in each]
    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *_, name=str(number): calls.append(name))
    one_step(clip)
    assert sorted(calls) == sorted(2 * [str(number) for number in range(len(blocks))])
    calls.clear()
    with torch.no_grad():
        clip.features(*inputs(small, pictures=4))
    assert len(calls) == len(blocks)


def test_it_can_be_turned_off_again(small: ClipConfig) -> None:
    clip = trained_looking(small)
    bytes_kept = []
    for enabled in (False, True, False):
        clip.set_gradient_checkpointing(enabled)
        bytes_kept.append(one_step(clip).kept_bytes)
    assert bytes_kept[0] == bytes_kept[2] > bytes_kept[1]


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)
