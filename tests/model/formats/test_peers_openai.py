"""All nine architectures against OpenAI's own package, in both directions."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.model.checkpoint import load_model
from clipkit.model.clip import Clip
from clipkit.model.config import ClipConfig
from clipkit.model.convert import convert
from clipkit.model.formats import openai, openai_shapes
from tests.model.conftest import inputs, openai_peer
from tests.model.conversions import OPENAI_MODELS
from tests.model.formats.peers import architectures, computed, enlivened, place


@pytest.fixture(scope="module", params=architectures(OPENAI_MODELS))
def config(request: pytest.FixtureRequest) -> ClipConfig:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def theirs(openai_clip: Any, config: ClipConfig) -> Any:
    model: Any = openai_peer(openai_clip, config)
    return enlivened(model, model.encode_image, config)


@pytest.fixture(scope="module")
def source(theirs: Any, config: ClipConfig) -> Iterator[Path]:
    """An archive as OpenAI published theirs: the modules traced, three numbers beside the weights."""
    sizes = (config.image_size, config.text.context_length, config.text.vocab_size)
    for name, size in zip(openai_shapes.BUFFERS, sizes, strict=True):
        vars(theirs).pop(name, None)
        theirs.register_buffer(name, torch.tensor(size))
    jit: Any = torch.jit
    with place() as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated; OpenAI's code is not ours
            jit.save(jit.trace(theirs, inputs(config, 1), check_trace=False), str(folder / "source.pt"))
        yield folder / "source.pt"


@pytest.fixture(scope="module")
def ours(source: Path, config: ClipConfig) -> Clip:
    ours = load_model(source)
    assert ours.config.differences(config) == []
    return ours


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
