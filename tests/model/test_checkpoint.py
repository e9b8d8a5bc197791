from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipkit.errors import CheckpointError
from clipkit.model.checkpoint import load_checkpoint, load_model, save_checkpoint
from clipkit.model.clip import build
from clipkit.model.config import named_config
from tests.model.conftest import MICRO, a_checkpoint, changed, inputs, one_line, trained_looking


def test_everything_comes_back(saved: Path) -> None:
    expected, found = a_checkpoint(), load_checkpoint(saved)
    for field in ("epoch", "name", "step", "position", "train_config", "model_config", "scaler"):
        assert getattr(found, field) == getattr(expected, field)
    assert found.extra == {"open_clip_model": None}
    assert found.optimizer is not None
    assert found.optimizer["param_groups"] == [{"betas": (0.9, 0.98)}]
    assert found.state_dict.keys() == expected.state_dict.keys()
    assert all(torch.equal(found.state_dict[k], v) for k, v in expected.state_dict.items())


def test_it_is_plain_data_for_torch_load(saved: Path) -> None:
    raw = torch.load(saved, weights_only=True)
    assert list(raw["state_dict"])[-1] == "ln_final.bias"
    assert {"epoch", "name", "state_dict", "optimizer", "step", "position", "scaler", "rng"} <= raw.keys()


def test_what_else_a_caller_keeps_comes_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", a_checkpoint(extra={"best": 0.25}))
    assert load_checkpoint(tmp_path / "a.pt").extra == {"best": 0.25, "open_clip_model": None}


def test_wrappers_leave_no_mark_in_the_names(tmp_path: Path) -> None:
    clip = build(MICRO, 0)
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in clip.state_dict().items()}
    save_checkpoint(tmp_path / "a.pt", a_checkpoint(state_dict=wrapped))
    assert load_checkpoint(tmp_path / "a.pt").state_dict.keys() == clip.state_dict().keys()


@pytest.mark.parametrize("value", [np.float64(1.0), Path("x"), {1, 2}, object()])
def test_what_could_not_be_opened_safely_is_not_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match=rf"checkpoint.train_config.deep\[1\] is a {type(value).__name__}"):
        save_checkpoint(tmp_path / "a.pt", a_checkpoint(train_config={"deep": [0, value]}))
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"checkpoint.rng.cpu is a tensor that is not dense"):
        save_checkpoint(tmp_path / "a.pt", a_checkpoint(rng={"cpu": torch.eye(3).to_sparse()}))
    with pytest.raises(CheckpointError, match=r"asks to run code .* \(torch._utils._rebuild_tensor_v3\)"):
        save_checkpoint(tmp_path / "a.pt", a_checkpoint(rng={"cpu": torch.zeros(3, dtype=torch.uint16)}))
    with pytest.raises(CheckpointError, match=r"holds a data.pkl of 5,\d{3},\d{3} bytes"):
        save_checkpoint(tmp_path / "a.pt", a_checkpoint(extra={"notes": "x" * (5 << 20)}))
    assert list(tmp_path.iterdir()) == []


def test_a_model_opens_in_evaluation_mode_with_the_same_features(saved: Path) -> None:
    clip = load_model(saved)
    assert (clip.config, clip.training) == (MICRO, False)
    images, tokens = inputs(MICRO)
    with torch.inference_mode():
        for one, other in zip(clip(images, tokens), trained_looking(MICRO)(images, tokens), strict=True):
            assert torch.equal(one, other)
    assert all(parameter.requires_grad for parameter in clip.parameters())


@pytest.mark.parametrize(
    ("activation", "context_length", "vocab_size"), [("quick_gelu", 77, 49_408), ("gelu", 32, 1_000)]
)
def test_activation_context_length_and_vocabulary_stand_in_the_file_and_come_back(
    tmp_path: Path, activation: str, context_length: int, vocab_size: int
) -> None:
    sizes = {"context_length": context_length, "vocab_size": vocab_size}
    text = MICRO.text.model_copy(update=sizes)
    config = MICRO.model_copy(update={"activation": activation, "text": text})
    save_checkpoint(tmp_path / "a.pt", a_checkpoint(config))
    stored = torch.load(tmp_path / "a.pt", weights_only=True)["model_config"]
    assert stored["activation"] == activation
    assert {name: stored["text"][name] for name in sizes} == sizes
    clip = load_model(tmp_path / "a.pt")
    assert clip.config == config
    assert (clip.context_length, clip.vocab_size) == (context_length, vocab_size)
    _, tokens = inputs(config)
    with torch.inference_mode():
        assert torch.equal(clip.encode_text(tokens), trained_looking(config).encode_text(tokens))


def test_a_checkpoint_of_another_model_is_refused_and_both_are_shown(saved: Path) -> None:
    assert load_model(saved, model="ViT-Micro-16-32").config == MICRO
    line = one_line(lambda: load_model(saved, model="RN50"))
    assert "is a ViT-Micro/16@32px, not a RN50: embed_dim is 64, not 1024" in line
    line = one_line(lambda: load_model(saved, model="ViT-Micro-16-32-gelu"))
    assert line.endswith("activation is 'quick_gelu', not 'gelu'; leave out --model")


def test_a_full_disk_is_that_error_and_leaves_the_old_file_whole(tiny_disk: Path, saved: Path) -> None:
    path = tiny_disk / "latest.pt"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint(path, a_checkpoint())
    assert {p.name: p.read_bytes() for p in tiny_disk.iterdir()} == {"latest.pt": b"old"}


def test_weights_that_share_their_bytes_are_refused(saved: Path) -> None:
    weights = torch.load(saved, weights_only=True)["state_dict"]
    weights["ln_final.bias"] = weights["ln_final.weight"]
    line = one_line(lambda: load_model(changed(saved, state_dict=weights)))
    assert "holds weights of" in line and "of which it stores" in line


def test_weights_without_values_are_refused(saved: Path) -> None:
    weights = torch.load(saved, weights_only=True)["state_dict"]
    weights["ln_final.bias"] = weights["ln_final.bias"].to("meta")
    line = one_line(lambda: load_model(changed(saved, state_dict=weights)))
    assert "ln_final.bias is not a dense tensor" in line


def test_a_model_larger_than_the_memory_is_one_line(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def beyond_memory(*_: object, **__: object) -> torch.Tensor:
        return torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(torch.Tensor, "to", beyond_memory)
    line = one_line(lambda: load_model(saved))
    assert "is a ViT-Micro/16@32px, which takes more memory than there is" in line


@pytest.mark.parametrize(
    "key", ["epoch", "name", "state_dict", "step", "position", "model_config", "train_config"]
)
def test_a_missing_part_is_named(saved: Path, key: str) -> None:
    assert f"it has no {key}" in one_line(lambda: load_checkpoint(changed(saved, **{key: ...})))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("epoch", "2", "its epoch is a str, not int"),
        ("position", True, "its position is a bool, not int"),
        ("state_dict", [1], "its state_dict is a list, not dict"),
        ("optimizer", 3, "its optimizer is a int, not dict"),
        ("model_config", {"name": "x"}, "has a model_config that is none: embed_dim: Field required"),
    ],
)
def test_a_part_of_the_wrong_kind_is_named(saved: Path, key: str, value: object, expected: str) -> None:
    assert expected in one_line(lambda: load_checkpoint(changed(saved, **{key: value})))


@pytest.mark.parametrize("value", [[1], {1: torch.zeros(1)}, torch.zeros(2)])
def test_weights_that_are_no_table_of_tensors(saved: Path, value: object) -> None:
    assert "no table of named tensors" in one_line(lambda: load_model(changed(saved, state_dict=value)))


@pytest.mark.slow
def test_open_clip_opens_a_checkpoint_of_its_own_model_as_it_is(open_clip: Any, tmp_path: Path) -> None:
    _assert_open_clip_opens(open_clip, "RN50", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B/32", "RN101", "ViT-B/16"])
def test_open_clip_opens_more_of_its_own_models(open_clip: Any, name: str, tmp_path: Path) -> None:
    _assert_open_clip_opens(open_clip, name, tmp_path)


def _assert_open_clip_opens(open_clip: Any, name: str, tmp_path: Path) -> None:
    config, path = named_config(name), tmp_path / "epoch_1.pt"
    save_checkpoint(path, a_checkpoint(config))
    raw = torch.load(path, weights_only=True, mmap=True)
    theirs = open_clip.create_model(raw["open_clip_model"], pretrained=str(path)).eval()
    ours = load_model(path)
    images, tokens = inputs(config, pictures=2)
    with torch.inference_mode():
        output = ours.features(images, tokens)
        images_BD, texts_BD, scale = theirs(images, tokens)
    assert (output.image_features_BD - images_BD).abs().max() < 1e-5
    assert (output.text_features_BD - texts_BD).abs().max() < 1e-5
    assert scale == output.logit_scale
