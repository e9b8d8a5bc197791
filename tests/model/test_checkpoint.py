import copy
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


def test_a_model_opens_in_evaluation_mode_with_the_same_features(saved: Path) -> None:
    clip = load_model(saved)
    assert (clip.config, clip.training) == (MICRO, False)
    images, tokens = inputs(MICRO)
    with torch.inference_mode():
        for one, other in zip(clip(images, tokens), trained_looking(MICRO)(images, tokens), strict=True):
            assert torch.equal(one, other)
    assert all(parameter.requires_grad for parameter in clip.parameters())


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


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(witness),)

    torch.save({"state_dict": Bomb()}, tmp_path / "zip.pt")
    assert f"asks to run code when it is opened ({os.name}.mkdir)" in one_line(
        lambda: load_model(tmp_path / "zip.pt")
    )
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb()))
    one_line(lambda: load_model(tmp_path / "plain.pt"))
    assert not witness.exists()


def test_a_tensor_larger_than_its_bytes_is_refused(saved: Path) -> None:
    weights = torch.load(saved, weights_only=True)["state_dict"]
    weights["positional_embedding"] = torch.zeros(1).expand_as(weights["positional_embedding"])
    path = changed(saved, state_dict=weights)
    for open_it in (load_model, load_checkpoint):
        assert "holds a tensor of 19,712 bytes, of which it stores 4" in one_line(lambda: open_it(path))  # noqa: B023
    deep = {"state": {0: [torch.zeros(1).expand(10**12)]}}
    line = one_line(lambda: load_checkpoint(changed(saved, optimizer=deep)))
    assert "holds a tensor of 4,000,000,000,000 bytes" in line


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


def test_a_pickle_that_holds_itself_is_read(saved: Path) -> None:
    ring: list[object] = []
    ring.append(ring)
    assert load_checkpoint(changed(saved, ring=ring)).extra["ring"]


def test_members_that_share_the_bytes_of_a_file_are_refused(saved: Path) -> None:
    with zipfile.ZipFile(saved, "a") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        for number in range(100):
            twin = copy.copy(largest)
            twin.filename = f"archive/data/{1000 + number}"
            archive.filelist.append(twin)
        archive.writestr("archive/last", b"")
    for open_it in (load_model, load_checkpoint):
        line = one_line(lambda: open_it(saved))  # noqa: B023
        assert "claims to hold" in line and line.endswith("refused")


def test_a_model_larger_than_the_memory_is_one_line(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def beyond_memory(*_: object, **__: object) -> torch.Tensor:
        return torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(torch.Tensor, "to", beyond_memory)
    line = one_line(lambda: load_model(saved))
    assert "is a ViT-Micro/16@32px, which takes more memory than there is" in line


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_gives_one_clear_line(saved: Path, part: float) -> None:
    whole = saved.read_bytes()
    cut = saved.with_name("cut.pt")
    cut.write_bytes(whole[: int(part * len(whole))])
    for open_it in (load_checkpoint, load_model):
        assert str(cut) in one_line(lambda: open_it(cut))  # noqa: B023


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_damaged_file_opens_or_gives_one_clear_line(saved: Path, data: st.DataObject) -> None:
    whole = bytearray(saved.read_bytes())
    start = whole.index(b"data.pkl")
    end = start + 20_000  # the pickle stands first, and is where damage is not just another number
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, end))] = data.draw(st.integers(0, 255))
    damaged = saved.with_name("damaged.pt")
    damaged.write_bytes(bytes(whole))
    try:
        load_model(damaged)
    except CheckpointError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "an empty file"),
        (b"not a checkpoint", "something else"),
        (pickle.dumps({"epoch": 1}), "something else"),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    assert expected in one_line(lambda: load_checkpoint(tmp_path / "a.pt"))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "No such file" in one_line(lambda: load_model(tmp_path / "a.pt"))
    assert "Is a directory" in one_line(lambda: load_model(tmp_path))


def test_other_zip_files_and_a_zip_bomb(tmp_path: Path, saved: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "not of PyTorch" in one_line(lambda: load_checkpoint(tmp_path / "other.zip"))
    with (
        zipfile.ZipFile(saved) as archive,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in archive.namelist():
            bomb.writestr(member, archive.read(member))
    assert "compressed data" in one_line(lambda: load_checkpoint(tmp_path / "bomb.pt"))


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
