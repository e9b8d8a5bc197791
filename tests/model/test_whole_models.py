"""OpenAI's nine architectures whole: built, computed with, saved and opened again. Up to 8 GB of memory."""

from pathlib import Path

import pytest
import torch

from clipkit.model.checkpoint import Checkpoint, load_model, save_checkpoint
from clipkit.model.clip import build
from clipkit.model.config import named_config
from clipkit.model.memory_layout import fast_layout
from clipkit.model.profile import figures
from tests.model.conftest import inputs
from tests.model.test_profile import OPEN_CLIP_FIGURES


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", OPEN_CLIP_FIGURES)
def test_a_whole_model_computes_and_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    config, path = named_config(name), tmp_path / "epoch_1.pt"
    images, tokens = inputs(config, pictures=1)
    clip = fast_layout(build(config, seed=0).eval())
    assert sum(each.numel() for each in clip.parameters()) == figures(config).parameters
    with torch.inference_mode():
        before = clip.encode_image(images), clip.encode_text(tokens)
    assert [each.shape for each in before] == [(1, config.embed_dim), (4, config.embed_dim)]
    assert all(bool(each.isfinite().all()) and float(each.std()) > 1e-3 for each in before)
    dumped = config.model_dump(mode="json")
    save_checkpoint(path, Checkpoint(1, name, dict(clip.state_dict()), dumped))
    del clip
    clip = load_model(path)
    path.unlink()
    assert clip.config == config
    assert (clip.config.activation, clip.context_length, clip.vocab_size) == ("quick_gelu", 77, 49_408)
    with torch.inference_mode():
        after = clip.encode_image(images), clip.encode_text(tokens)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
