from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.model.checkpoint import load_model
from clipkit.model.config import ClipConfig, named_config
from clipkit.model.convert import convert
from clipkit.model.formats.open_clip import from_json, to_json
from clipkit.model.formats.targets import TARGETS
from tests.model.conftest import MICRO, inputs, trained_looking, written
from tests.model.conversions import OPENAI_MODELS, target_of


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


@pytest.mark.parametrize("content", ["three years of work", '{"embed_dim": 64}', "[" * 10_000])
def test_only_a_configuration_is_replaced_beside(tmp_path: Path, content: str) -> None:
    source = written(trained_looking(MICRO), tmp_path / "a.pt")
    beside = tmp_path / "clipkit-result.json"
    beside.write_text(content)
    with pytest.raises(
        ConfigError, match=r"clipkit-result\.json: expected no such file, or the configuration"
    ):
        convert(source, tmp_path / "result.pt", "open-clip")
    assert beside.read_text() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "clipkit-result.json"]
    beside.unlink()
    for _ in range(2):  # its own is replaced
        convert(source, tmp_path / "result.pt", "open-clip")


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("name", OPENAI_MODELS)
def test_configurations_are_open_clips_own(open_clip: Any, name: str, activation: str) -> None:
    config = named_config(name).model_copy(update={"activation": activation})
    assert to_json(config) == open_clip.get_model_config(config.open_clip_name)
    assert from_json(to_json(config), config.name) == config


def test_a_model_of_open_clips_is_opened_by_its_name(tmp_path: Path) -> None:
    mine = named_config("RN50").model_copy(update={"name": "mine"})
    call = TARGETS["open-clip"].open_with(tmp_path / "b.pt", mine)
    assert call == f'open_clip.create_model("RN50-quickgelu", pretrained="{tmp_path / "b.pt"}")'
    assert list(tmp_path.iterdir()) == []
