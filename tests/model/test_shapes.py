import subprocess
import sys

import pytest

from clipkit.model.clip import Clip, build, shapes_of
from clipkit.model.config import named_config


def described(clip: Clip) -> dict[str, tuple[object, ...]]:
    return {key: (value.shape, value.dtype) for key, value in clip.state_dict().items()}


@pytest.mark.parametrize("name", ["ViT-Micro/16@32px", "RN50"])
def test_a_model_of_shapes_alone_has_those_of_one_with_values(name: str) -> None:
    clip = shapes_of(named_config(name))
    assert described(clip) == described(build(named_config(name), 0))
    assert all(value.is_meta for value in clip.state_dict().values())


_LOADED = """
import sys
from clipkit.model.clip import shapes_of
from clipkit.model.config import named_config
shapes_of(named_config(sys.argv[1]))
print(sorted({"torch._dynamo", "sympy"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("name", ["ViT-Micro/16@32px", pytest.param("RN50", marks=pytest.mark.slow)])
def test_to_load_a_model_needs_no_compiler(name: str) -> None:
    words = [sys.executable, "-c", _LOADED, name]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "[]\n"
