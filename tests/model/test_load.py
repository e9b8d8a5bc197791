import subprocess
import sys
from pathlib import Path

import pytest
import torch

import clipkit
from clipkit.errors import CheckpointError
from clipkit.model.checkpoint import Checkpoint, save_checkpoint
from tests.model.conftest import MICRO, trained_looking


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "epoch_1.pt"
    tensors = dict(trained_looking(MICRO).state_dict())
    save_checkpoint(path, Checkpoint(1, "a-run", tensors, MICRO.model_dump(mode="json")))
    return path


def test_load_takes_a_path_and_any_device(checkpoint: Path) -> None:
    model, preprocess = clipkit.load(checkpoint, torch.device("cpu"))
    assert (model.config, preprocess.image_size, model.training) == (MICRO, 32, False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "ViT-Micro/16@32px",
            "there is no file ViT-Micro/16@32px: give the path of a checkpoint, or one of",
        ),
        ("nowhere.pt", "there is no file nowhere.pt: give the path of a checkpoint, or one of RN50, RN101, "),
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
