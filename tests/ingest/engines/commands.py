"""Whole ingests by the command line, with any engine: what to ingest, how to start it, what to expect."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.processes import wait_until_gone
from tests.serving import Server, answer, encoded, photo

CHUNK_ROWS = 1000  # the command line's
CLIPKIT = (sys.executable, "-m", "clipkit")
UNSET = ("MASTER", "PYSPARK_SUBMIT_ARGS", "RAY_ADDRESS", "SPARK_CONF_DIR")


def make_list(server: Server, folder: Path, records: int) -> Path:
    """A list of good and bad URLs over many chunks; row 17 has none, row 1117 a file's."""
    pictures = [encoded(photo(60 + seed, 50, seed)) for seed in range(20)]
    routes = [answer(picture) for picture in pictures]
    routes[3] = answer(b"gone", 404)
    routes[6] = answer(b"<html>sorry</html>")
    routes[9] = answer(pictures[9], 200, {"X-Robots-Tag": "noai"})
    lines = [f"picture «{row}»\t{server.add(f'/{row}.jpg', routes[row % 20])}" for row in range(records)]
    lines[17], lines[1117] = "a record without a URL", "local\tfile:///etc/passwd"
    path = folder / "list.tsv"
    path.write_text("\n".join(lines))
    return path


def started(
    engine: str,
    path: Path,
    out: Path | str,
    cwd: Path,
    clipkit: Sequence[str] = CLIPKIT,
    options: Sequence[str] = (),
    **environment: str,
) -> subprocess.Popen[str]:
    """Start an ingest in a session of its own, on a machine that knows of no cluster."""
    words = ["ingest", "cc", str(path), "--out", str(out), "--engine", engine, "--json"]
    words += ["--allow-private-hosts", "--image-size", "32", "--workers", "2", "--timeout", "60"]
    known = {name: value for name, value in os.environ.items() if name not in UNSET}
    return subprocess.Popen(
        [*clipkit, *words, *options],
        cwd=cwd,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=known | {"RAY_ADDRESS": "local"} | environment,
    )


def finished(*values: Any, **settings: Any) -> tuple[int, str, str]:
    """Exit code, standard output and error of an ingest, as `started`, that leaves no process behind."""
    process = started(*values, **settings)
    stdout, stderr = process.communicate(timeout=300)
    wait_until_gone(process.pid)
    return process.returncode, stdout, stderr


def assert_told(stderr: str, *words: str) -> None:
    """One line of error, at the end, that says all of `words`."""
    errors = [line for line in stderr.splitlines() if line.startswith("clipkit: ")]
    assert errors == stderr.splitlines()[-1:] and "Traceback" not in stderr, stderr
    for each in words:
        assert each in errors[0]
