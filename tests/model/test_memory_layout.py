"""Channels last changes where values lie, in memory and in no file."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clipkit.model.checkpoint import load_model, save_checkpoint
from clipkit.model.clip import Clip
from clipkit.model.config import ClipConfig
from clipkit.model.memory_layout import fast_layout, laid_out_as, plain_layout
from tests.model.conftest import SMALL, a_checkpoint, inputs, trained_looking


def is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def gradients(clip: Clip) -> Tensor:
    """Of all parameters, in one vector."""
    images, tokens = inputs(clip.config, pictures=4)
    functional.cross_entropy(clip.train()(images, tokens)[0], torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    return torch.cat([each.grad.flatten() for each in clip.parameters() if each.grad is not None])


def test_features_and_gradients_of_a_resnet_stay_the_same() -> None:
    plain = trained_looking(SMALL["resnet"])
    fast = fast_layout(copy.deepcopy(plain))
    images, _ = inputs(plain.config)
    with torch.inference_mode():
        features = plain.encode_image(images)
        assert (fast.encode_image(images) - features).abs().max() < 1e-5 * features.abs().max()
    # In float32 a rectifier here or there falls on the other side of zero; in float64 none does.
    for dtype, tolerance in ((torch.float32, 0.05), (torch.float64, 1e-12)):
        mine, theirs = (gradients(copy.deepcopy(clip).to(dtype)) for clip in (plain, fast))
        assert mine.numel() == sum(each.numel() for each in plain.parameters())
        assert (mine - theirs).norm() < tolerance * mine.norm()


def test_kernels_and_all_feature_maps_have_their_channels_last() -> None:
    clip = fast_layout(trained_looking(SMALL["resnet"]))
    kernels = [each.weight for each in clip.visual.modules() if isinstance(each, nn.Conv2d)]
    assert len(kernels) > 15 and all(map(is_channels_last, kernels))
    seen: list[bool] = []
    for module in clip.visual.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.AvgPool2d):
            module.register_forward_hook(lambda module, given, result: seen.append(is_channels_last(result)))
    with torch.inference_mode():
        clip.encode_image(inputs(clip.config)[0])
    assert len(seen) > 30 and all(seen)


def test_a_vit_is_left_alone() -> None:
    clip = trained_looking(SMALL["vit"])
    before = {name: (each.data_ptr(), each.stride()) for name, each in clip.state_dict().items()}
    after = fast_layout(clip).state_dict()
    assert {name: (each.data_ptr(), each.stride()) for name, each in after.items()} == before


def test_a_checkpoint_has_the_very_bytes_of_a_plain_one(tmp_path: Path) -> None:
    config = SMALL["resnet"]
    files = []
    for name, lay_out in (("plain", lambda clip: clip), ("fast", fast_layout)):
        clip = lay_out(trained_looking(config))
        moments = {number: {"exp_avg": each.detach() / 2} for number, each in enumerate(clip.parameters())}
        optimizer = {"state": moments, "param_groups": [{"betas": (0.9, 0.98)}]}
        path = tmp_path / name / "epoch_1.pt"
        path.parent.mkdir()
        save_checkpoint(path, a_checkpoint(config, state_dict=clip.state_dict(), optimizer=optimizer))
        files.append(path.read_bytes())
    assert files[0] == files[1]


def test_a_loaded_resnet_has_its_channels_last(tmp_path: Path, small: ClipConfig) -> None:
    save_checkpoint(tmp_path / "a.pt", a_checkpoint(small))
    loaded = load_model(tmp_path / "a.pt")
    expected = fast_layout(trained_looking(small)).state_dict()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]) and tensor.stride() == expected[name].stride(), name


@pytest.mark.parametrize("shape", [(), (3,), (4, 3), (8, 4, 1, 1), (8, 4, 3, 3), (8, 1, 3, 3)])
def test_plain_layout_has_a_new_tensors_strides_and_values(shape: tuple[int, ...]) -> None:
    plain = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    laid_out = (
        plain.to(memory_format=torch.channels_last) if len(shape) == 4 else plain.t() if shape else plain
    )
    again = plain_layout(laid_out)
    assert again.stride() == torch.empty(laid_out.shape).stride()
    assert torch.equal(again, laid_out)
    back = laid_out_as(again, laid_out)
    assert back.stride() == laid_out.stride() and torch.equal(back, laid_out)
