"""All nine architectures against OpenCLIP's own package, in both directions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.errors import CheckpointError
from clipkit.model import config as config_module
from clipkit.model.checkpoint import load_model
from clipkit.model.clip import Clip
from clipkit.model.config import ClipConfig
from clipkit.model.convert import convert
from clipkit.model.formats import open_clip as open_clip_format
from tests.model.conftest import inputs
from tests.model.conversions import OPENAI_MODELS
from tests.model.formats.peers import PICTURES, Outputs, architectures, computed, enlivened, place


@pytest.fixture(scope="module", params=architectures(OPENAI_MODELS, vocab_size=1_000))
def config(request: pytest.FixtureRequest) -> ClipConfig:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def theirs(open_clip: Any, config: ClipConfig) -> Any:
    """Their own model: of their own configuration where it is a whole one."""
    torch.manual_seed(1)
    if config.open_clip_name is not None:
        assert config.open_clip_name.endswith("-quickgelu")
        model = open_clip.create_model(config.open_clip_name)
    else:
        model = open_clip.CLIP(**open_clip_format.to_json(config))
    return enlivened(model, model.encode_image, config)


@pytest.fixture(scope="module")
def source(theirs: Any) -> Iterator[Path]:
    """What their trainer writes."""
    with place() as folder:
        torch.save({"epoch": 1, "name": "a", "state_dict": theirs.state_dict()}, folder / "source.pt")
        yield folder / "source.pt"


@pytest.fixture(scope="module")
def ours(source: Path, config: ClipConfig) -> Iterator[Clip]:
    with pytest.raises(CheckpointError, match="does not say which model it is"):
        load_model(source)
    with pytest.MonkeyPatch.context() as patch:  # shallow ones have names too then
        patch.setitem(config_module._BY_DASHED_NAME, config.file_name.lower(), config)
        yield load_model(source, model=config.open_clip_name or config.name)


@torch.no_grad()
def computed_by(model: Any, config: ClipConfig) -> Outputs:
    images, tokens = inputs(config, PICTURES)
    images_BD, texts_ND, scale = model(images, tokens)
    assert model.logit_bias is None
    return Outputs(images_BD, texts_ND, scale * images_BD @ texts_ND.t())


def test_their_weights_compute_the_same_here(theirs: Any, ours: Clip, config: ClipConfig) -> None:
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in theirs.state_dict().items())
    computed_by(theirs, config).assert_same(computed(ours, config))


def test_their_package_opens_what_is_written(
    open_clip: Any, theirs: Any, ours: Clip, source: Path, config: ClipConfig
) -> None:
    result = convert(source, source.with_name("result.pt"), "open-clip", config.open_clip_name or config.name)
    opened = eval(result.open_with.replace("; ", " or "), {"open_clip": open_clip}).eval()
    computed_by(theirs, config).assert_same(computed_by(opened, config))
    assert all(torch.equal(opened.state_dict()[key], value) for key, value in theirs.state_dict().items())
