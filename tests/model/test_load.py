import io
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import clipkit
from clipkit.errors import CheckpointError
from clipkit.model.checkpoint import Checkpoint, save_checkpoint
from clipkit.model.convert import convert
from tests.model.conftest import MICRO, trained_looking


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "epoch_1.pt"
    tensors = dict(trained_looking(MICRO).state_dict())
    save_checkpoint(path, Checkpoint(1, "a-run", tensors, MICRO.model_dump(mode="json")))
    return path


def probabilities_of_three_captions(clip: Any, name: str, picture: io.BytesIO, **options: bool) -> Any:
    """The example on the first page of OpenAI's repository, line by line."""
    device = "cpu"
    model, preprocess = clip.load(name, device=device, **options)
    image = preprocess(Image.open(picture)).unsqueeze(0).to(device)
    text = clip.tokenize(["a diagram", "a dog", "a cat"]).to(device)
    with torch.no_grad():
        model.encode_image(image)
        model.encode_text(text)
        logits_per_image, _ = model(image, text)
        return logits_per_image.softmax(dim=-1).cpu().numpy()


def test_a_script_for_openais_package_gives_the_same_with_the_import_changed(
    openai_clip: Any, checkpoint: Path, tmp_path: Path
) -> None:
    convert(checkpoint, tmp_path / "openai.pt", "openai")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "PNG")
    ours = probabilities_of_three_captions(clipkit, str(checkpoint), picture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        theirs = probabilities_of_three_captions(openai_clip, str(tmp_path / "openai.pt"), picture, jit=True)
    assert ours.shape == (1, 3)
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.ptp(ours) > 1e-3


def test_load_takes_a_path_and_any_device(checkpoint: Path) -> None:
    model, preprocess = clipkit.load(checkpoint, torch.device("cpu"))
    assert (model.config, preprocess.image_size, model.training) == (MICRO, 32, False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("RN50", "RN50 is a model without weights here: give the path of a checkpoint"),
        ("nowhere.pt", "there is no file nowhere.pt: give the path of a checkpoint"),
    ],
)
def test_what_cannot_be_loaded(name: str, expected: str) -> None:
    with pytest.raises(CheckpointError, match=expected):
        clipkit.load(name)


def test_every_public_name_resolves() -> None:
    for name in clipkit.__all__:
        assert getattr(clipkit, name)
        assert name in dir(clipkit)
    assert "ViT-B/32" in clipkit.available_models()
    assert clipkit.tokenize("a dog").shape == (1, 77)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        clipkit.nothing  # noqa: B018


def test_importing_the_package_is_light() -> None:
    heavy = "{'torch', 'pyarrow', 'pydantic', 'numpy', 'PIL'}"
    code = f"import clipkit, sys; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_tokenizer_of_the_workers_needs_no_torch() -> None:
    code = "import sys, clipkit.model.tokenizer as t; t.Tokenizer()(['a dog']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
