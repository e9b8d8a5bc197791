"""OpenAI's four vision transformers against Hugging Face's own package, in both directions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.model.checkpoint import load_model
from clipkit.model.clip import Clip
from clipkit.model.config import ClipConfig, ViTConfig
from clipkit.model.convert import convert
from tests.model.conftest import inputs
from tests.model.formats.peers import (
    PICTURES,
    VISION_TRANSFORMERS,
    Outputs,
    architectures,
    computed,
    enlivened,
    place,
)


@pytest.fixture(scope="module", params=architectures(VISION_TRANSFORMERS))
def config(request: pytest.FixtureRequest) -> ClipConfig:
    return request.param  # type: ignore[no-any-return]


def settings_of(tower: Any) -> dict[str, int]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": 4 * tower.width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.width // 64,
    }


@pytest.fixture(scope="module")
def theirs(transformers: Any, config: ClipConfig) -> Any:
    vision = config.vision
    assert isinstance(vision, ViTConfig)
    towers = {"text_config": config.text, "vision_config": vision}
    settings = {key: settings_of(tower) for key, tower in towers.items()}
    settings["vision_config"] |= {"image_size": vision.image_size, "patch_size": vision.patch_size}
    torch.manual_seed(1)
    model = transformers.CLIPModel(transformers.CLIPConfig(**settings, projection_dim=config.embed_dim))
    return enlivened(model, model.get_image_features, config)


@pytest.fixture(scope="module")
def source(theirs: Any) -> Iterator[Path]:
    with place() as folder:
        theirs.save_pretrained(folder / "source")
        yield folder / "source"


@torch.no_grad()
def computed_by(model: Any, config: ClipConfig) -> Outputs:
    images, tokens = inputs(config, PICTURES)
    found = model(input_ids=tokens, pixel_values=images)
    return Outputs(found.image_embeds, found.text_embeds, found.logits_per_image)


def test_their_weights_compute_the_same_here_and_go_back(
    transformers: Any, theirs: Any, source: Path, config: ClipConfig
) -> None:
    ours: Clip = load_model(source)
    assert ours.config.differences(config) == []
    expected = computed_by(theirs, config)
    expected.assert_same(computed(ours, config))
    convert(source, source.with_name("between.pt"), "clipkit")
    result = convert(source.with_name("between.pt"), source.with_name("result"), "hf")
    opened = eval(result.open_with, {"transformers": transformers}).eval()
    expected.assert_same(computed_by(opened, config))
    after = opened.state_dict()
    assert all(torch.equal(after[key], value) for key, value in theirs.state_dict().items())
