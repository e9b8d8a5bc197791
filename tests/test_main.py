"""The process that the `clipkit` command is."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-"])
def test_with_standard_error_closed_the_result_is_the_same(
    closed: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    words = ["shards", "filter", tiny_dataset, "--where", "true", "--out", tmp_path / "new", "--json"]
    finished = shell(f"{sys.executable} -m clipkit {shlex.join(map(str, words))} {closed}")

    assert finished.returncode == 0 and finished.stderr == "", finished
    assert json.loads(finished.stdout)["samples"] > 0


def test_an_error_never_stands_on_standard_output(tmp_path: Path) -> None:
    finished = shell(f"{sys.executable} -m clipkit shards info {shlex.quote(str(tmp_path / 'none'))} 2>&-")

    assert (finished.returncode, finished.stdout, finished.stderr) == (1, "", "")


def test_no_file_takes_the_place_of_a_closed_standard_output(tiny_dataset: Path, tmp_path: Path) -> None:
    words = ["shards", "filter", tiny_dataset, "--where", "true", "--out", tmp_path / "new"]
    shell(f"{sys.executable} -m clipkit {shlex.join(map(str, words))} >&- 2>&-")

    finished = shell(f"{sys.executable} -m clipkit shards verify {shlex.quote(str(tmp_path / 'new'))}")
    assert finished.returncode == 0, finished


@pytest.mark.parametrize(
    "error",
    [
        'MemoryError("Unable to allocate 9 GiB")',
        'ImportError("libx.so: failed to map segment from shared object")',
        """RuntimeError("can't start new thread")""",
    ],
)
def test_a_lack_of_memory_is_one_line(error: str) -> None:
    program = (
        f"from clipkit import cli\n\ndef app(prog_name):\n    raise {error}\n\ncli.app = app\ncli.main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("clipkit: there is not memory enough (") and ended.stderr.count("\n") == 1
