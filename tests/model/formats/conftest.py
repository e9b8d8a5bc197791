from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.model.conftest import MICRO, trained_looking
from tests.model.formats.crafted import traced


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return traced(trained_looking(MICRO), tmp_path / "traced.pt")


@pytest.fixture
def tensors_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(dict(trained_looking(MICRO).state_dict()), path)
    return path
