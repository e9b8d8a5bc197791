"""All nine architectures against OpenAI's own package, in both directions."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipkit.model.checkpoint import Checkpoint, load_model, save_checkpoint
from clipkit.model.clip import Clip
from clipkit.model.config import ClipConfig
from clipkit.model.convert import convert
from clipkit.model.formats import openai
from tests.model.conftest import openai_peer
from tests.model.conversions import OPENAI_MODELS
from tests.model.formats.peers import architectures, computed, enlivened, place


@pytest.fixture(scope="module", params=architectures(OPENAI_MODELS))
def config(request: pytest.FixtureRequest) -> ClipConfig:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def theirs(openai_clip: Any, config: ClipConfig) -> Any:
    model = openai_peer(openai_clip, config)
    return enlivened(model, model.encode_image, config)  # type: ignore[operator]


@pytest.fixture(scope="module")
def source(theirs: Any, config: ClipConfig) -> Iterator[Path]:
    with place() as folder:
        dumped = config.model_dump(mode="json")
        save_checkpoint(folder / "source.pt", Checkpoint(0, "", theirs.state_dict(), dumped))
        yield folder / "source.pt"


@pytest.fixture(scope="module")
def ours(source: Path) -> Clip:
    return load_model(source)


def test_their_weights_compute_the_same_here(theirs: Any, ours: Clip, config: ClipConfig) -> None:
    computed(theirs, config).assert_same(computed(ours, config))


def test_their_package_opens_what_is_written(
    openai_clip: Any, theirs: Any, ours: Clip, source: Path, config: ClipConfig
) -> None:
    result = convert(source, source.with_name("result.pt"), "openai")
    assert result.open_with == f'clip.load("{result.path}")'
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; OpenAI's code is not ours
        opened, _ = openai_clip.load(str(result.path), device="cpu", jit=True)
        computed(theirs, config).assert_same(computed(opened, config))
        del opened
        opened, preprocess = openai_clip.load(str(result.path), device="cpu", jit=False)
    assert preprocess.transforms[0].size == config.image_size
    computed(opened, config).assert_same(computed(openai.rounded(ours), config))
