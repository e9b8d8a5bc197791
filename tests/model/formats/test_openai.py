import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.model.checkpoint import load_model
from clipkit.model.clip import Clip
from clipkit.model.comparison import Reference
from clipkit.model.config import ClipConfig, named_config
from clipkit.model.convert import convert
from clipkit.model.formats import openai
from clipkit.model.formats.openai_shapes import BUFFERS, guessed_config
from tests.model.conftest import MICRO, trained_looking, written
from tests.model.conversions import OPENAI_MODELS, assert_nothing_written, assert_same, target_of


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
        assert_same(ours if jit else openai.rounded(ours), theirs, small)
        if jit:
            buffers = {name: int(theirs.state_dict()[name]) for name in BUFFERS}
            size = small.image_size
            assert buffers == {"input_resolution": size, "context_length": 77, "vocab_size": 49_408}
            weights = {k: v for k, v in theirs.state_dict().items() if k not in buffers}
            assert weights.keys() == ours.state_dict().keys()
            assert all(torch.equal(weights[k], v) for k, v in ours.state_dict().items())


def test_the_rounding_of_openais_package_is_told(source: Path) -> None:
    result = convert(source, target_of(source, "openai"), "openai")
    assert "clip.load(jit=False) itself rounds weights to float16" in result.note
    clip = load_model(source)
    error, _ = Reference(clip).difference(openai.rounded(clip))
    assert 1e-6 < error < 1e-2
    assert f"{error:.0e}" in result.note


@pytest.mark.parametrize("name", OPENAI_MODELS)
def test_openais_rule_finds_every_architecture_in_its_shapes(name: str) -> None:
    config = named_config(name)
    with torch.device("meta"):
        assert guessed_config(Clip(config).state_dict(), name) == config


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
    assert_nothing_written(source, "openai", f"cannot be written in the format openai: {reason}")
    assert convert(source, tmp_path / "c.pt", "open-clip").max_error <= 1e-5


def test_weights_beyond_float16_are_refused_where_they_would_be_rounded(tmp_path: Path) -> None:
    for key, refused in (("visual.proj", True), ("ln_final.weight", False)):
        clip = trained_looking(MICRO)
        with torch.no_grad():
            clip.state_dict()[key].mul_(1e6 / float(clip.state_dict()[key].abs().max()))
        source = written(clip, tmp_path / "a.pt")
        if refused:
            assert_nothing_written(source, "openai", "visual.proj is beyond that range")
        else:
            assert convert(source, tmp_path / "c.pt", "openai").max_error <= 1e-5
