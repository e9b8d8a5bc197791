"""Every kind of source, written by the project that it comes from."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from clipkit.errors import CheckpointError
from clipkit.model.checkpoint import load_checkpoint, load_model
from clipkit.model.clip import Clip
from clipkit.model.config import ClipConfig, named_config
from clipkit.model.convert import convert
from clipkit.model.formats.openai_shapes import BUFFERS
from clipkit.model.weights import read_weights
from tests.model.conftest import MICRO, inputs, one_line, openai_peer, trained_looking
from tests.model.conversions import assert_same
from tests.model.formats.crafted import traced


def openai_archive(openai_clip: Any, config: ClipConfig, path: Path, half: bool = True) -> nn.Module:
    """What OpenAI published: its own modules, traced, with three numbers beside float16 weights."""
    torch.manual_seed(3)
    model: Any = openai_peer(openai_clip, config)
    model.load_state_dict(trained_looking(config, 3).state_dict())
    if half:
        openai_clip.model.convert_weights(model)
    kept: nn.Module = copy.deepcopy(model).float()
    sizes = (config.image_size, config.text.context_length, config.text.vocab_size)
    for name, size in zip(BUFFERS, sizes, strict=True):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(size))
    images, tokens = inputs(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; OpenAI's code is not ours
        jit: Any = torch.jit
        example = (images.to(model.visual.conv1.weight.dtype), tokens)
        jit.save(jit.trace(model, example, check_trace=False), str(path))
    return kept.eval()


@pytest.mark.parametrize("half", [True, False])
def test_an_archive_of_openais_own_modules(
    openai_clip: Any, small: ClipConfig, tmp_path: Path, half: bool
) -> None:
    theirs = openai_archive(openai_clip, small, tmp_path / "Small-CLIP.pt", half)
    ours = load_model(tmp_path / "Small-CLIP.pt")
    assert ours.config == small.model_copy(update={"name": "Small-CLIP"})
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in ours.state_dict().values())
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in theirs.state_dict().items())
    assert_same(ours, theirs, small)


@pytest.mark.parametrize("name", ["RN50", "ViT-B/32"])
@pytest.mark.slow
def test_whole_archives_of_openais_own_modules(openai_clip: Any, name: str, tmp_path: Path) -> None:
    config = named_config(name)
    theirs = openai_archive(openai_clip, config, tmp_path / "downloaded.pt")
    ours = load_model(tmp_path / "downloaded.pt")
    assert ours.config == config
    assert_same(ours, theirs, config)


def test_an_archive_that_clipkit_wrote_comes_back_bit_for_bit(source: Path, small: ClipConfig) -> None:
    convert(source, source.with_name("openai.pt"), "openai")
    convert(source.with_name("openai.pt"), source.with_name("back.pt"), "clipkit")
    original, back = load_model(source), load_model(source.with_name("back.pt"))
    assert back.config == small.model_copy(update={"name": "openai"})
    assert all(torch.equal(back.state_dict()[key], value) for key, value in original.state_dict().items())


def test_an_archive_says_its_model(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    traced(trained_looking(MICRO), path)
    assert load_model(path).config == MICRO
    assert load_model(path, model="ViT-Micro-16-32").config == MICRO
    line = one_line(lambda: load_model(path, model="ViT-Micro-16-32-gelu"))
    assert line.endswith("activation is 'quick_gelu', not 'gelu'; leave out --model")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"vocab_size": torch.tensor(7)}, "its vocab_size is 7, not 49408"),
        ({"input_resolution": torch.zeros(2)}, "its input_resolution is no number, not 32"),
        ({"ln_final.weight": None}, "holds no CLIP of OpenAI's: it lacks ln_final.weight"),
        ({"ln_final.bias": None}, "it lacks ln_final.bias"),
        ({"visual.other": torch.zeros(1)}, "which has no visual.other"),
        ({"text_projection": torch.zeros(64, 8)}, "embed_dim: Input should be greater than or equal to 16"),
        ({"text_projection": torch.zeros(64)}, "no CLIP of OpenAI's, going by its shapes"),
    ],
)
def test_an_archive_whose_parts_do_not_fit(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    traced(trained_looking(MICRO), tmp_path / "a.pt", change)
    assert expected in one_line(lambda: load_model(tmp_path / "a.pt"))


def test_an_archive_of_another_program_needs_the_models_name(tmp_path: Path) -> None:
    clip, path = trained_looking(MICRO), tmp_path / "a.pt"
    traced(clip, path, dict.fromkeys(BUFFERS))
    assert "name it with --model, in Python with model=: ViT-Micro/16@32px-quickgelu or" in one_line(
        lambda: load_model(path)
    )
    assert_weights(load_model(path, model="ViT-Micro-16-32-gelu"), clip)


def test_an_archive_is_no_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    traced(trained_looking(MICRO), tmp_path / "a.pt")
    assert "is a TorchScript archive" in one_line(lambda: load_checkpoint(tmp_path / "a.pt"))


def open_clips(open_clip: Any, tmp_path: Path) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A model of OpenCLIP's own making, small, and its names of the weights."""
    from clipkit.atomic import write_json
    from clipkit.model.formats.open_clip import to_json

    write_json(tmp_path / "reading-micro.json", to_json(MICRO))
    open_clip.add_model_config(tmp_path / "reading-micro.json")
    torch.manual_seed(5)
    model: nn.Module = open_clip.create_model("reading-micro")
    return model, {key: value.clone() for key, value in model.state_dict().items()}


def of_today(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    states = {} if optimizer is None else {"optimizer": optimizer.state_dict()}
    return {"epoch": 4, "name": "today", "state_dict": model.state_dict(), **states}


def of_2021(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    saved = of_today(model, optimizer)
    return {**saved, "state_dict": {f"module.{k}": v for k, v in saved["state_dict"].items()}, "scaler": {}}


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("written", [of_today, of_2021])
def test_a_checkpoint_of_open_clips(
    open_clip: Any, tmp_path: Path, written: Callable[..., dict[str, Any]], trained: bool
) -> None:
    model, _ = open_clips(open_clip, tmp_path)
    optimizer = torch.optim.AdamW(model.parameters())
    if trained:
        images, tokens = inputs(MICRO)
        model.train()
        sum(value.sum() for value in model(images, tokens)).backward()
        optimizer.step()
    path = tmp_path / "epoch_4.pt"
    torch.save(written(model, optimizer if trained else None), path)
    assert "name it with --model, in Python with model=: ViT-Micro/16@32px-quickgelu or" in one_line(
        lambda: load_model(path)
    )
    weights = read_weights(path, "ViT-Micro-16-32-quickgelu")
    assert (weights.epoch, weights.name) == (4, "today")
    ours = load_model(path, model="ViT-Micro-16-32-quickgelu")
    images, tokens = inputs(MICRO)
    with torch.inference_mode():
        for one, other in zip(ours.features(images, tokens), model.eval()(images, tokens), strict=True):
            assert (one - other).abs().max() < 1e-5


def test_safetensors_of_open_clips_weights_under_any_name(open_clip: Any, tmp_path: Path) -> None:
    model, tensors = open_clips(open_clip, tmp_path)
    for name in ("open_clip_model.safetensors", "weights.bin"):
        safetensors.torch.save_file(tensors, tmp_path / name)
        assert "name it with --model" in one_line(lambda: load_model(tmp_path / name))  # noqa: B023
        assert_weights(load_model(tmp_path / name, model="ViT-Micro-16-32"), model)


@pytest.mark.parametrize("half", [True, False])
def test_a_plain_state_dict_of_openais_package(openai_clip: Any, tmp_path: Path, half: bool) -> None:
    peer, path = openai_peer(openai_clip, MICRO), tmp_path / "plain.pt"
    if half:
        openai_clip.model.convert_weights(peer)
    torch.save(peer.state_dict(), path)
    assert "name it with --model" in one_line(lambda: load_model(path))
    assert_weights(load_model(path, model="ViT-Micro-16-32"), peer.float())


def test_the_three_numbers_in_a_state_dict_are_checked(tmp_path: Path) -> None:
    clip, path = trained_looking(MICRO), tmp_path / "a.pt"
    sizes = {"input_resolution": torch.tensor(32), "vocab_size": torch.tensor(49_408)}
    torch.save({**clip.state_dict(), **sizes}, path)
    assert_weights(load_model(path, model="ViT-Micro-16-32"), clip)
    torch.save({**clip.state_dict(), "context_length": torch.tensor(76)}, path)
    line = one_line(lambda: load_model(path, model="ViT-Micro-16-32"))
    assert "is not a ViT-Micro/16@32px: its context_length is 76, not 77" in line


def test_a_prefix_on_some_names_only_is_not_taken_off(tmp_path: Path) -> None:
    tensors, path = trained_looking(MICRO).state_dict(), tmp_path / "a.pt"
    tensors["module.logit_scale"] = tensors.pop("logit_scale")
    torch.save(tensors, path)
    assert "it lacks logit_scale" in one_line(lambda: load_model(path, model="ViT-Micro-16-32"))
    tensors["logit_scale"] = tensors["module.logit_scale"]
    torch.save(tensors, path)
    assert "has no module.logit_scale" in one_line(lambda: load_model(path, model="ViT-Micro-16-32"))


def test_weights_that_are_no_real_numbers_are_refused(tmp_path: Path) -> None:
    tensors, path = trained_looking(MICRO).state_dict(), tmp_path / "a.pt"
    for dtype in (torch.int8, torch.bool, torch.int64):
        torch.save({**tensors, "visual.proj": tensors["visual.proj"].to(dtype)}, path)
        line = one_line(lambda: load_model(path, model="ViT-Micro-16-32"))
        assert f"the values of visual.proj are {str(dtype)[6:]}, not float32" in line


def test_what_fits_no_named_model_is_told(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "a.pt")
    line = one_line(lambda: load_model(tmp_path / "a.pt"))
    assert "its tensors are those of none of RN50, RN101, " in line


def assert_weights(one: nn.Module, other: nn.Module) -> None:
    found, expected = one.state_dict(), other.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_file_with_no_weights_is_told(tmp_path: Path) -> None:
    for content in ({}, [1], {"state_dict": [1]}, {1: torch.zeros(1)}, torch.zeros(2), "text"):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match="no table of named tensors"):
            load_model(tmp_path / "a.pt")


def test_another_models_name_is_refused_with_the_one_that_fits(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(trained_looking(MICRO).state_dict(), path)
    line = one_line(lambda: load_model(path, model="RN50"))
    assert "is not a RN50: it lacks visual.bn1.weight and " in line
    assert line.endswith("model=: ViT-Micro/16@32px-quickgelu or ViT-Micro/16@32px-gelu")
    larger = MICRO.model_copy(update={"embed_dim": 96})
    torch.save(trained_looking(larger).state_dict(), path)
    line = one_line(lambda: load_model(path, model="ViT-Micro-16-32"))
    assert "text_projection has shape (64, 96), not (64, 64); its tensors are those of none of" in line


def test_a_name_that_means_two_activations_is_refused(tmp_path: Path) -> None:
    config, path = named_config("RN50"), tmp_path / "a.pt"
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in Clip(config).state_dict().items()}
    floats = {key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}
    integers = {key: value.to(torch.int64) for key, value in floats.items() if "num_batches" in key}
    torch.save({**floats, **integers}, path)
    line = one_line(lambda: read_weights(path, "RN50"))
    assert line.endswith(
        "does not say its activation, and RN50 alone means QuickGELU to OpenAI and GELU to OpenCLIP: "
        "say --model RN50-quickgelu or RN50-gelu"
    )
    assert read_weights(path, "RN50-quickgelu").config == config
    assert read_weights(path, "RN50-gelu").config.activation == "gelu"


def test_a_checkpoint_with_its_weights_under_another_name(tmp_path: Path) -> None:
    torch.save({"epoch": 1, "model": dict(trained_looking(MICRO).state_dict())}, tmp_path / "a.pt")
    assert "holds epoch, model instead of tensors by name" in one_line(lambda: load_model(tmp_path / "a.pt"))
