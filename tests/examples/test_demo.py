"""The demo as a stranger meets it: interrupted again and again, then run to its end."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The demo's files alone; the package is the installed one."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def demo(checkout: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(checkout / "examples" / "emoji" / "demo.py")]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def test_sigterm_ends_the_command_that_runs_too(checkout: Path) -> None:
    command = (
        "import runpy, sys; demo = runpy.run_path(sys.argv[1], run_name='demo'); signal = demo['signal']; "
    )
    command += "signal.signal(signal.SIGTERM, demo['terminated']); "
    command += "demo['clipkit'].__globals__['sys'].executable = sys.argv[2]; demo['clipkit'](['train'])"
    stage = checkout / "stage"
    stage.write_text("#!/bin/sh\necho pid $$\nexec sleep 300\n")
    stage.chmod(0o755)
    script = checkout / "examples" / "emoji" / "demo.py"
    with subprocess.Popen(
        [sys.executable, "-c", command, str(script), str(stage)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stdout is not None
        try:
            child = next(int(line.split()[1]) for line in running.stdout if line.startswith("pid"))
            running.terminate()
            assert running.wait(timeout=30) == 143
            with pytest.raises(ProcessLookupError):
                os.kill(child, 0)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ctrl_c_at_any_point_and_no_finished_stage_again(checkout: Path) -> None:
    for seconds in (0.4, 0.7, 1, 1.5, 2, 3, 5, 8, 13, 30):
        running = demo(checkout)
        time.sleep(seconds)
        os.killpg(running.pid, signal.SIGINT)
        said, _ = running.communicate(timeout=60)
        assert "Traceback" not in said, said
        assert running.returncode == 130, said
    last = demo(checkout)
    said, _ = last.communicate(timeout=900)
    assert last.returncode == 0, said
    assert "emoji goes on after step" in (checkout / "build/demo/runs/emoji/out.log").read_text()

    dataset = checkout / "build" / "demo" / "dataset"
    manifests = [pq.read_table(path) for path in sorted(dataset.glob("0*.parquet"))]
    failures = [pq.read_table(path) for path in (dataset / "failures").glob("*.parquet")]
    rows = [row for table in (*manifests, *failures) for row in table["source_row"].to_pylist()]
    lines = (checkout / "build/demo/emoji-train.tsv").read_text().splitlines()
    assert sorted(rows) == list(range(len(lines)))

    (result,) = [
        json.loads(line)
        for line in (checkout / "build/demo/runs/emoji/results.jsonl").read_text().splitlines()
    ]
    assert result["top1"] >= 0.05 and result["chance"] <= 0.001

    start = time.monotonic()
    again, _ = demo(checkout).communicate(timeout=60)
    assert again.count("finished before") == 5 and "$ clipkit train" not in again, time.monotonic() - start
