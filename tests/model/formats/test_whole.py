"""The nine architectures whole against the peers, each pair in a process that then gives its memory back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model.conversions import OPENAI_MODELS
from tests.model.formats.peers import VISION_TRANSFORMERS, WHOLE

PAIRS = [
    *(("openai", name) for name in OPENAI_MODELS),
    *(("open_clip", name) for name in OPENAI_MODELS),
    *(("hugging_face", name) for name in VISION_TRANSFORMERS),
]


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize(("peer", "name"), PAIRS)
def test_a_whole_architecture_and_its_peer(peer: str, name: str) -> None:
    tests = Path(__file__).with_name(f"test_peers_{peer}.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tests)]
    ran = subprocess.run(command, env=os.environ | {WHOLE: name}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "skipped" not in ran.stdout, ran.stdout
