import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError
from clipkit.model.checkpoint import load_checkpoint, load_model
from clipkit.model.convert import ConvertResult, convert
from clipkit.model.formats.targets import TARGETS
from tests.model.conftest import MICRO, trained_looking, written
from tests.model.conversions import assert_nothing_written, target_of

FILES = [to for to, target in TARGETS.items() if not target.is_folder]


@pytest.mark.parametrize("to", FILES)
def test_the_result_reopens_with_the_weights_bit_for_bit(source: Path, to: str) -> None:
    result = convert(source, target_of(source, to), to)
    original = load_model(source)
    assert isinstance(result, ConvertResult)
    assert (result.format, result.path) == (to, target_of(source, to))
    assert result.parameters == sum(p.numel() for p in original.parameters())
    assert 0 <= result.max_error <= 1e-5
    assert json.loads(json.dumps(result.as_json()))["path"] == str(result.path)
    assert result.lines().splitlines()[-1] == f"open it with {result.open_with}"
    if to == "open-clip":
        opened = torch.load(result.path, weights_only=True)["state_dict"]
    else:
        opened = load_model(result.path).state_dict()
    assert opened.keys() == original.state_dict().keys()
    assert all(torch.equal(opened[key], value) for key, value in original.state_dict().items())


@pytest.mark.parametrize("to", TARGETS)
def test_the_call_is_python_whatever_the_name(tmp_path: Path, to: str) -> None:
    place = tmp_path / 'a "model" of c:\\new'
    place.mkdir()
    source = written(trained_looking(MICRO), place / "source.pt")
    result = convert(source, target_of(source, to), to)
    strings = [node.value for node in ast.walk(ast.parse(result.open_with)) if isinstance(node, ast.Constant)]
    assert str(result.path) in strings


def test_a_way_through_all_formats_keeps_every_bit(tmp_path: Path) -> None:
    original = trained_looking(MICRO)
    source = written(original, tmp_path / "0.pt")
    for number, to in enumerate((*TARGETS, *reversed(TARGETS), "clipkit")):
        name = {"hf": f"{number}", "safetensors": f"{number}.safetensors"}.get(to, f"{number}.pt")
        model = "ViT-Micro/16@32px" if source.name.startswith("open-clip") else None
        source = convert(source, tmp_path / f"{to}-{name}", to, model).path
    opened = load_model(source)
    assert opened.config.differences(MICRO) == []
    assert all(torch.equal(opened.state_dict()[key], value) for key, value in original.state_dict().items())


@pytest.mark.parametrize("to", TARGETS)
def test_features_that_are_not_numbers_are_no_success(tmp_path: Path, to: str) -> None:
    clip = trained_looking(MICRO)
    with torch.no_grad():
        clip.ln_final.bias[0] = float("nan")
    source = written(clip, tmp_path / "a.pt")
    assert_nothing_written(source, to, "was not written: reopened, its features differ by nan")


@pytest.mark.parametrize("key", ["visual.proj", "ln_final.bias"])
def test_a_source_without_a_tensor_is_refused_by_its_name(tmp_path: Path, key: str) -> None:
    source = written(trained_looking(MICRO), tmp_path / "a.pt")
    raw = torch.load(source, weights_only=True)
    kept = raw["state_dict"].pop(key)
    torch.save(raw, source)
    assert_nothing_written(source, "openai", f"it lacks {key}")
    raw["state_dict"] |= {key: kept, "another.weight": kept}
    torch.save(raw, source)
    assert_nothing_written(source, "openai", "which has no another.weight")


def test_a_source_that_does_not_say_its_model_needs_the_name(tmp_path: Path) -> None:
    clip = trained_looking(MICRO)
    tensors = {f"module.{name}": tensor for name, tensor in clip.state_dict().items()}
    torch.save({"epoch": 5, "name": "open-clip", "state_dict": tensors}, tmp_path / "a.pt")
    assert_nothing_written(tmp_path / "a.pt", "clipkit", "name it with --model")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", "clipkit", "ViT-Micro-16-32")
    checkpoint = load_checkpoint(tmp_path / "b.pt")
    assert (checkpoint.epoch, checkpoint.name, checkpoint.optimizer) == (5, "open-clip", None)
    convert(tmp_path / "a.pt", tmp_path / "c.pt", "clipkit", "ViT-Micro-16-32-gelu")
    assert load_model(tmp_path / "c.pt").config.activation == "gelu"


def test_safetensors_say_their_model(tmp_path: Path) -> None:
    source = written(trained_looking(MICRO), tmp_path / "a.pt")
    convert(source, tmp_path / "b.safetensors", "safetensors")
    assert load_model(tmp_path / "b.safetensors").config == MICRO
    with pytest.raises(CheckpointError, match="is a ViT-Micro/16@32px, not a RN50"):
        load_model(tmp_path / "b.safetensors", model="RN50")
    whole = (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="no safetensors file that can be read"):
        load_model(tmp_path / "cut.safetensors")
    assert json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]["format"] == "pt"


@pytest.mark.parametrize(
    ("to", "name", "expected"),
    [
        (
            "onnx",
            "b.pt",
            "no format 'onnx' to convert to; there are openai, open-clip, hf, safetensors, clipkit",
        ),
        ("openai", "b.safetensors", "safetensors files, and only those"),
        ("safetensors", "b.pt", "safetensors files, and only those"),
        ("openai", "none/b.pt", "there is no folder"),
    ],
)
def test_calls_that_cannot_work(tmp_path: Path, to: str, name: str, expected: str) -> None:
    source = written(trained_looking(MICRO), tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=expected):
        convert(source, tmp_path / name, to)


def test_nothing_is_fetched_for_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        convert(Path("RN50x64"), tmp_path / "none" / "b.pt", "clipkit")


def test_what_is_no_source_is_told_with_the_names_that_are(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="there is no file RN5: give the path of a checkpoint, or one of RN50"
    ):
        convert(Path("RN5"), tmp_path / "b.pt", "clipkit")


@pytest.mark.parametrize(
    ("name", "to"), [("model.safetensors", "safetensors"), ("pytorch_model.bin", "openai")]
)
def test_no_file_of_a_folder_that_is_converted_is_replaced(tmp_path: Path, name: str, to: str) -> None:
    source = written(trained_looking(MICRO), tmp_path / "a.pt")
    folder = tmp_path / "folder"
    convert(source, folder, "hf")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match="is of the folder to convert: give the result another place"):
        convert(folder, folder / name, to)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("to", TARGETS)
def test_names_that_are_no_utf_8(tmp_path: Path, to: str) -> None:
    folder = tmp_path / os.fsdecode(b"\xfe")
    folder.mkdir()
    source = written(trained_looking(MICRO), folder / "a.pt")
    target = target_of(source, to)
    if to in ("hf", "safetensors"):
        with pytest.raises(CheckpointError, match="safetensors opens only names that are UTF-8: give it"):
            convert(source, target, to)
        assert not target.exists()
    else:
        convert(source, target, to)
        assert load_model(target, model="ViT-Micro-16-32-quickgelu").config == MICRO


@pytest.mark.parametrize("to", ["openai", "hf"])
def test_models_that_are_called_as_a_file_or_folder_whose_name_is_no_utf_8(tmp_path: Path, to: str) -> None:
    small = MICRO.model_copy(update={"text": MICRO.text.model_copy(update={"layers": 1})})  # of no name
    plain, odd = tmp_path / "plain", tmp_path / os.fsdecode(b"caf\xe9")
    convert(written(trained_looking(small), tmp_path / "a.pt"), plain, to)
    plain.rename(odd)
    if to == "openai":
        assert load_model(odd).config.name == "caf\ufffd"
    else:  # its configuration is read first
        with pytest.raises(CheckpointError, match="safetensors opens only names that are UTF-8"):
            load_model(odd)


@pytest.mark.parametrize("through", ["itself", "link", "hard link"])
def test_the_source_is_never_the_target(tmp_path: Path, through: str) -> None:
    source = written(trained_looking(MICRO), tmp_path / "a.pt")
    before, target = source.read_bytes(), tmp_path / f"{through}.pt"
    if through == "link":
        target.symlink_to(source)
    elif through == "hard link":
        target.hardlink_to(source)
    else:
        target = source.parent / "." / "a.pt"
    for one, other in ((source, target), (target, source)):
        with pytest.raises(ConfigError, match="is the file to convert itself: give the result a name"):
            convert(one, other, "clipkit")
    assert source.read_bytes() == target.read_bytes() == before


def test_the_names_of_the_formats_are_known_without_torch() -> None:
    program = (
        "import sys, clipkit.model.formats.names as it; print(*it.FORMAT_NAMES, *{'torch'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == list(TARGETS)


@pytest.mark.parametrize("to", FILES)
def test_a_full_disk_leaves_the_old_file(tiny_disk: Path, tmp_path: Path, to: str) -> None:
    source = written(trained_looking(MICRO), tmp_path / "a.pt")
    target = target_of(tiny_disk / "a.pt", to)
    old = b"\x02" + bytes(7) + b"{}"  # an empty safetensors file
    target.write_bytes(old)
    with pytest.raises(OSError, match=f"No space left on device: '{target}'"):
        convert(source, target, to)
    assert {path.name: path.read_bytes() for path in tiny_disk.iterdir()} == {target.name: old}


def test_only_model_files_are_replaced(tmp_path: Path) -> None:
    source = written(trained_looking(MICRO), tmp_path / "a.pt")
    notes = tmp_path / "notes.pt"
    notes.write_text("three years of work")
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("photos/1.jpg", b"x")
    for target in (notes, tmp_path / "archive.pt", tmp_path):
        before = target.read_bytes() if target.is_file() else None
        with pytest.raises(ConfigError, match="a model file to replace, found something else"):
            convert(source, target, "clipkit")
        assert before is None or target.read_bytes() == before
    for to in ("openai", "clipkit", "open-clip"):
        convert(source, tmp_path / "again.pt", to)
