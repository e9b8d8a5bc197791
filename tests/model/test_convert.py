import json
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError
from clipkit.model import openai_format
from clipkit.model.checkpoint import Checkpoint, load_checkpoint, load_model, save_checkpoint
from clipkit.model.clip import Clip
from clipkit.model.config import ClipConfig, named_config
from clipkit.model.convert import FORMATS, ConvertResult, convert, feature_error
from clipkit.model.open_clip_format import from_json, to_json
from tests.model.conftest import MICRO, inputs, trained_looking

OPENAI_MODELS = [
    "RN50",
    "RN101",
    "RN50x4",
    "RN50x16",
    "RN50x64",
    "ViT-B/32",
    "ViT-B/16",
    "ViT-L/14",
    "ViT-L/14@336px",
]


def written(clip: Clip, path: Path) -> Path:
    config = clip.config.model_dump(mode="json")
    save_checkpoint(path, Checkpoint(3, "a-run", dict(clip.state_dict()), config, optimizer={"state": {}}))
    return path


@pytest.fixture
def source(tmp_path: Path, small: ClipConfig) -> Path:
    return written(trained_looking(small), tmp_path / "source.pt")


def target_of(source: Path, to: str) -> Path:
    return source.with_name("result.safetensors" if to == "safetensors" else "result.pt")


def outputs(model: Any, images: torch.Tensor, tokens: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model.encode_image(images), model.encode_text(tokens), *model(images, tokens)]


def assert_same(one: Any, other: Any, config: ClipConfig, tolerance: float = 1e-5) -> None:
    """Outputs agree, relative to their size, at batch sizes that nothing was traced at."""
    for pictures in (1, 5):
        images, tokens = inputs(config, pictures)
        for x, y in zip(outputs(one, images, tokens), outputs(other, images, tokens), strict=True):
            assert (x - y).abs().max() < tolerance * max(1.0, float(x.abs().max()))


@pytest.mark.parametrize("to", FORMATS)
def test_the_result_reopens_with_the_weights_bit_for_bit(source: Path, to: str) -> None:
    result = convert(source, target_of(source, to), to)
    original = load_model(source)
    assert isinstance(result, ConvertResult)
    assert (result.format, result.path) == (to, target_of(source, to))
    assert result.parameters == sum(p.numel() for p in original.parameters())
    assert 0 <= result.max_error <= 1e-5
    assert str(result.path) in result.open_with
    assert json.loads(json.dumps(result.as_json()))["path"] == str(result.path)
    assert result.lines().splitlines()[-1] == f"open it with {result.open_with}"
    if to != "openai":
        if to == "open-clip":
            opened = torch.load(result.path, weights_only=True)["state_dict"]
        else:
            opened = load_model(result.path).state_dict()
        assert all(torch.equal(opened[key], value) for key, value in original.state_dict().items())


@pytest.mark.parametrize("jit", [False, True])
def test_openais_package_opens_its_format(
    openai_clip: Any, source: Path, small: ClipConfig, jit: bool
) -> None:
    result = convert(source, target_of(source, "openai"), "openai")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; OpenAI's code is not ours
        theirs, preprocess = openai_clip.load(str(result.path), device="cpu", jit=jit)
        assert preprocess.transforms[0].size == small.image_size
        ours = load_model(source)
        assert_same(ours if jit else openai_format.rounded(ours), theirs, small)
        if jit:
            buffers = {name: int(theirs.state_dict()[name]) for name in openai_format.BUFFERS}
            size = small.image_size
            assert buffers == {"input_resolution": size, "context_length": 77, "vocab_size": 49_408}
            weights = {k: v for k, v in theirs.state_dict().items() if k not in buffers}
            assert weights.keys() == ours.state_dict().keys()
            assert all(torch.equal(weights[k], v) for k, v in ours.state_dict().items())


def test_the_rounding_of_openais_package_is_told(source: Path) -> None:
    result = convert(source, target_of(source, "openai"), "openai")
    assert "clip.load(jit=False) itself rounds weights to float16" in result.note
    clip = load_model(source)
    error, _ = feature_error(clip, openai_format.rounded(clip), clip.config)
    assert 1e-6 < error < 1e-2
    assert f"{error:.0e}" in result.note


def test_open_clip_opens_its_format_with_a_configuration_beside(
    open_clip: Any, source: Path, small: ClipConfig
) -> None:
    result = convert(source, target_of(source, "open-clip"), "open-clip")
    beside = source.with_name("clipkit-result.json")
    assert result.open_with == (
        f'open_clip.add_model_config("{beside}"); '
        f'open_clip.create_model("clipkit-result", pretrained="{result.path}")'
    )
    open_clip.add_model_config(beside)
    theirs = open_clip.create_model("clipkit-result", pretrained=str(result.path)).eval()
    images, tokens = inputs(small)
    with torch.inference_mode():
        assert_close = zip(load_model(source).features(images, tokens), theirs(images, tokens), strict=True)
        assert all((x - y).abs().max() < 1e-5 for x, y in assert_close)
    assert torch.load(result.path, weights_only=True).keys() == {"epoch", "name", "state_dict"}


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("name", OPENAI_MODELS)
def test_configurations_are_open_clips_own(open_clip: Any, name: str, activation: str) -> None:
    config = named_config(name).model_copy(update={"activation": activation})
    assert to_json(config) == open_clip.get_model_config(config.open_clip_name)
    assert from_json(to_json(config), config.name) == config


@pytest.mark.parametrize("name", OPENAI_MODELS)
def test_openais_rule_finds_every_architecture_in_its_shapes(name: str) -> None:
    config = named_config(name)
    with torch.device("meta"):
        assert openai_format.guessed_config(Clip(config).state_dict(), name) == config


def test_a_model_of_open_clips_is_opened_by_its_name(tmp_path: Path) -> None:
    mine = named_config("RN50").model_copy(update={"name": "mine"})
    call = FORMATS["open-clip"].open_with(tmp_path / "b.pt", mine)
    assert call == f'open_clip.create_model("RN50-quickgelu", pretrained="{tmp_path / "b.pt"}")'
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RN50", "ViT-B/32"])
def test_whole_models_open_in_both_peers(openai_clip: Any, open_clip: Any, name: str, tmp_path: Path) -> None:
    config = named_config(name)
    source = written(trained_looking(config), tmp_path / "a.pt")
    convert(source, tmp_path / "openai.pt", "openai")
    convert(source, tmp_path / "open-clip.pt", "open-clip")
    ours = load_model(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for jit in (False, True):
            theirs, _ = openai_clip.load(str(tmp_path / "openai.pt"), device="cpu", jit=jit)
            assert_same(ours if jit else openai_format.rounded(ours), theirs, config)
    theirs = open_clip.create_model(config.open_clip_name, pretrained=str(tmp_path / "open-clip.pt")).eval()
    images, tokens = inputs(config)
    with torch.inference_mode():
        for x, y in zip(ours.features(images, tokens), theirs(images, tokens), strict=True):
            assert (x - y).abs().max() < 1e-5


def text(**changes: int) -> dict[str, object]:
    return {"text": MICRO.text.model_copy(update=changes)}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"activation": "gelu"}, "it always computes QuickGELU, and ViT-Micro/16@32px was made for gelu"),
        (text(context_length=32), "its texts are 77 tokens of 49408, not 32 tokens of 49408"),
        (text(vocab_size=100), "its texts are 77 tokens of 49408, not 77 tokens of 100"),
        (text(heads=2), "its heads are 64 wide, those of ViT-Micro/16@32px 32"),
    ],
)
def test_what_openais_format_cannot_express_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    config = MICRO.model_copy(update=changes)
    source = written(trained_looking(config), tmp_path / "a.pt")
    _assert_nothing_written(source, "openai", f"cannot be written in the format openai: {reason}")
    assert convert(source, tmp_path / "c.pt", "open-clip").max_error <= 1e-5


def test_weights_beyond_float16_are_refused_where_they_would_be_rounded(tmp_path: Path) -> None:
    for key, refused in (("visual.proj", True), ("ln_final.weight", False)):
        clip = trained_looking(MICRO)
        with torch.no_grad():
            clip.state_dict()[key].mul_(1e6 / float(clip.state_dict()[key].abs().max()))
        source = written(clip, tmp_path / "a.pt")
        if refused:
            _assert_nothing_written(source, "openai", "visual.proj is beyond that range")
        else:
            assert convert(source, tmp_path / "c.pt", "openai").max_error <= 1e-5


@pytest.mark.parametrize("to", FORMATS)
def test_features_that_are_not_numbers_are_no_success(tmp_path: Path, to: str) -> None:
    clip = trained_looking(MICRO)
    with torch.no_grad():
        clip.ln_final.bias[0] = float("nan")
    source = written(clip, tmp_path / "a.pt")
    _assert_nothing_written(source, to, "was not written: reopened, its features differ by nan")


@pytest.mark.parametrize("key", ["visual.proj", "ln_final.bias"])
def test_a_source_without_a_tensor_is_refused_by_its_name(tmp_path: Path, key: str) -> None:
    source = written(trained_looking(MICRO), tmp_path / "a.pt")
    raw = torch.load(source, weights_only=True)
    kept = raw["state_dict"].pop(key)
    torch.save(raw, source)
    _assert_nothing_written(source, "openai", f"it lacks {key}")
    raw["state_dict"] |= {key: kept, "another.weight": kept}
    torch.save(raw, source)
    _assert_nothing_written(source, "openai", "which has no another.weight")


def test_a_source_that_does_not_say_its_model_needs_the_name(tmp_path: Path) -> None:
    clip = trained_looking(MICRO)
    tensors = {f"module.{name}": tensor for name, tensor in clip.state_dict().items()}
    torch.save({"epoch": 5, "name": "open-clip", "state_dict": tensors}, tmp_path / "a.pt")
    _assert_nothing_written(tmp_path / "a.pt", "clipkit", "name it with --model")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", "clipkit", "ViT-Micro-16-32")
    checkpoint = load_checkpoint(tmp_path / "b.pt")
    assert (checkpoint.epoch, checkpoint.name, checkpoint.optimizer) == (5, "open-clip", None)
    convert(tmp_path / "a.pt", tmp_path / "c.pt", "clipkit", "ViT-Micro-16-32-gelu")
    assert load_model(tmp_path / "c.pt").config.activation == "gelu"


def test_openais_archives_are_not_run_as_a_source(source: Path) -> None:
    convert(source, target_of(source, "openai"), "openai")
    with pytest.raises(CheckpointError, match="is a TorchScript archive, which is a program"):
        load_model(target_of(source, "openai"))


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
        ("onnx", "b.pt", "no format 'onnx' to convert to; there are openai, open-clip, safetensors, clipkit"),
        ("openai", "b.safetensors", "safetensors files, and only those"),
        ("safetensors", "b.pt", "safetensors files, and only those"),
        ("openai", "none/b.pt", "there is no folder"),
    ],
)
def test_calls_that_cannot_work(tmp_path: Path, to: str, name: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        convert(tmp_path / "a.pt", tmp_path / name, to)


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
        "import sys, clipkit.model.format_names as it; print(*it.FORMAT_NAMES, *{'torch'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == list(FORMATS)


@pytest.mark.parametrize("to", FORMATS)
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


def _assert_nothing_written(source: Path, to: str, expected: str, model: str | None = None) -> None:
    target = target_of(source, to)
    before = set(source.parent.iterdir())
    with pytest.raises(CheckpointError) as caught:
        convert(source, target, to, model)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert set(source.parent.iterdir()) == before
