from typing import Any

import pytest
from pydantic import ValidationError

from clipkit.errors import ConfigError
from clipkit.model.config import ClipConfig, TextConfig, ViTConfig, config_names, named_config


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("ViT-B-32", "ViT-B/32"),
        ("vit-b/32", "ViT-B/32"),
        ("ViT-L-14-336", "ViT-L/14@336px"),
        ("ViT-L-14@336px", "ViT-L/14@336px"),
        ("ViT-L/14", "ViT-L/14"),
        ("RN50-quickgelu", "RN50"),
        ("ViT-Micro-16-32", "ViT-Micro/16@32px"),
        ("RN-Mini-64", "RN-Mini@64px"),
    ],
)
def test_a_name_may_be_written_with_slashes_or_dashes(alias: str, name: str) -> None:
    assert named_config(alias) == named_config(name)
    assert named_config(alias).name == name


def test_the_names_of_openai_and_of_open_clip_are_known(openai_clip: Any, open_clip: Any) -> None:
    for name in openai_clip.available_models():
        config = named_config(name)
        assert config.name == name
        assert config.open_clip_name in open_clip.list_models()
        assert config.open_clip_name is not None and named_config(config.open_clip_name) == config


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"'RN49'; there are RN50, RN101, .*ViT-L/14@336px"):
        named_config("RN49")


@pytest.mark.parametrize("name", config_names())
def test_a_configuration_survives_json(name: str) -> None:
    config = named_config(name)
    assert ClipConfig.model_validate_json(config.model_dump_json()) == config
    assert config.differences(config) == []


def test_gelu_is_another_model_under_another_name() -> None:
    quick, plain = named_config("ViT-B/32"), named_config("ViT-B-32-gelu")
    assert plain.name == "ViT-B/32-gelu"
    assert quick.differences(plain) == ["activation is 'quick_gelu', not 'gelu'"]
    assert (quick.open_clip_name, plain.open_clip_name) == ("ViT-B-32-quickgelu", "ViT-B-32")


def test_what_open_clip_has_no_name_for() -> None:
    rn50 = named_config("RN50")
    text = rn50.text.model_copy(update={"context_length": 32})
    assert rn50.model_copy(update={"text": text}).open_clip_name is None
    assert named_config("ViT-Mini/8@64px").open_clip_name is None
    assert rn50.model_copy(update={"name": "mine"}).open_clip_name == "RN50-quickgelu"


@pytest.mark.parametrize(
    "change",
    [
        {"embed_dim": 10**9},
        {"layers": 1},
        {"text": {"width": 64, "heads": 1, "layers": 10**9}},
        {"text": {"width": 64, "heads": 3, "layers": 1}},
        {"vision": {"kind": "vit", "layers": 1, "width": 64, "patch_size": 7, "image_size": 32}},
        {"vision": {"kind": "resnet", "layers": [1, 1, 1], "width": 64, "image_size": 224}},
        {"vision": {"kind": "resnet", "layers": [1, 1, 1, 1], "width": 64, "image_size": 225}},
        {"activation": "relu"},
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(change: dict[str, object]) -> None:
    good = named_config("ViT-Micro-16-32").model_dump(mode="json")
    with pytest.raises(ValidationError):
        ClipConfig.model_validate(good | change)


def test_differences_name_the_field_and_both_values() -> None:
    text = TextConfig(width=64, heads=1, layers=1)
    one, other = (
        ClipConfig(
            name="x",
            embed_dim=64,
            vision=ViTConfig(layers=1, width=64, patch_size=8, image_size=size),
            text=text,
        )
        for size in (32, 64)
    )
    assert one.differences(other) == ["vision.image_size is 32, not 64"]
