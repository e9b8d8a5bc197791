import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipkit.ingest.memory import check_memory
from tests.ingest.hostile import png
from tests.serving import Server, answer, encoded


def test_a_picture_that_lacks_memory_ends_the_run_and_is_no_failure(server: Server, tmp_path: Path) -> None:
    large = encoded(Image.fromarray(np.zeros((5000, 5000, 4), np.uint8)), "PNG")
    urls = [
        server.add("/large", answer(large)),
        server.add("/broken", answer(encoded(Image.new("L", (9, 9)))[:-9])),
    ]
    (tmp_path / "list.tsv").write_text("".join(f"x\t{url}\n" for url in urls))
    command = [
        sys.executable,
        "-m",
        "clipkit",
        "ingest",
        "cc",
        "list.tsv",
        "--allow-private-hosts",
        "--workers",
        "1",
    ]

    def run(most: int) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (most, most)),
        )

    lacking = run(180_000_000)
    assert lacking.returncode == 1 and "Traceback" not in lacking.stderr, lacking.stderr
    assert "expected 256 MB of memory for a picture of 5000 x 5000" in lacking.stderr
    enough = run(2_000_000_000)
    assert enough.returncode == 0, enough.stderr
    assert "samples         1 (50.0%)" in enough.stdout and "broken_image  1" in enough.stdout


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8\xff", encoded(Image.new("L", (9, 9)))[:-9], png(10_000, 9_500)]
)
def test_what_is_broken_is_that_alone(data: bytes, recwarn: pytest.WarningsRecorder) -> None:
    check_memory(data)
    assert not recwarn.list
