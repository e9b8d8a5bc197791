"""Further passes whose processes are killed go on, and come to the same bytes as ones that never were."""

import os
import signal
import subprocess
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from clipkit.shards.dataset import read_dataset
from tests.datasets import contents
from tests.ingest.again import BUSY, CONFIG, LATE, RECORDS, Illness, run
from tests.processes import until
from tests.serving import Server

PROGRAM = """
import os, signal, sys
from pathlib import Path
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.run import ingest
from clipkit.ingest.table_files import table_files

path, out, config, moment = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
events = 0

def count(event, values):
    global events
    if event in {"os.rename", "os.remove", "os.rmdir", "shutil.rmtree"} and str(values[0]).startswith(out):
        events += 1
        if events == moment:
            os.killpg(0, signal.SIGKILL)

sys.addaudithook(count)
source = table_files([path], keep=["twice"])
ingest(source, Path(out), IngestConfig.model_validate_json(config), retry_failed=sys.argv[5] == "retry")
print(events)
"""


def started(path: Path, out: Path, kind: str, moment: int = 0) -> "subprocess.Popen[str]":
    """Start a pass whose processes are killed at its so-manieth change of a file's name."""
    words = [str(path), str(out), CONFIG.model_dump_json(), str(moment), kind]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], start_new_session=True, stdout=subprocess.PIPE, text=True
    )


def killed(path: Path, out: Path, kind: str, moment: int) -> tuple[int, str]:
    with started(path, out, kind, moment) as process:
        stdout, _ = process.communicate()
    return process.returncode, stdout


def killed_at_each(kind: str, listed: Path, illness: Illness, tmp_path: Path) -> Counter[str]:
    run(listed, tmp_path / "first", limit=None if kind == "retry" else 150)
    illness.level = 1
    unbroken = tmp_path / "unbroken"
    subprocess.run(["cp", "-r", tmp_path / "first", unbroken], check=True)
    code, events = killed(listed, unbroken, kind, 0)
    assert code == 0
    outcomes = Counter[str]()
    for moment in range(1, int(events) + 1):
        out = tmp_path / f"killed{moment}"
        subprocess.run(["cp", "-r", tmp_path / "first", out], check=True)
        code, _ = killed(listed, out, kind, moment)
        assert code == -signal.SIGKILL
        is_finished = read_dataset(out).complete and len(read_dataset(out).passes) == 2
        outcomes["finished" if read_dataset(out).complete else "unfinished"] += 1
        # The same command; if it was killed when all but its end was done, that would begin another pass.
        run(listed, out, retry_failed=kind == "retry" and not is_finished)
        assert contents(out) == contents(unbroken), f"killed at change {moment} of {events}"
    return outcomes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retry", "list"])
def test_a_pass_killed_at_every_moment_ends_in_the_same_bytes(
    kind: str, listed: Path, illness: Illness, tmp_path: Path
) -> None:
    assert killed_at_each(kind, listed, illness, tmp_path)["unfinished"] >= 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retry", "list"])
def test_a_pass_killed_amidst_its_downloads_goes_on(
    kind: str, listed: Path, server: Server, illness: Illness, tmp_path: Path
) -> None:
    out, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    run(listed, out, limit=None if kind == "retry" else 150)
    subprocess.run(["cp", "-r", out, unbroken], check=True)
    illness.level = 0
    run(listed, unbroken, retry_failed=kind == "retry")
    parts = out / "parts" / "0001"
    usual = server.routes["/1293.jpg"]

    def deadly(request: BaseHTTPRequestHandler) -> None:
        until(lambda: len(list(parts.glob("0*.parquet"))) >= 2, "the parts of two chunks are whole")
        os.killpg(process.pid, signal.SIGKILL)

    server.add("/1293.jpg", deadly)
    with started(listed, out, kind) as process:
        assert process.wait(60) == -signal.SIGKILL
    server.add("/1293.jpg", usual)
    whole = {int(path.stem) for path in parts.glob("0*.parquet")}
    assert whole and not read_dataset(out).complete
    server.hits.clear()
    run(listed, out, retry_failed=kind == "retry")
    assert contents(out) == contents(unbroken)
    tried = (
        [row for row in range(RECORDS) if row % 10 in (BUSY, LATE)]
        if kind == "retry"
        else range(150, RECORDS)
    )
    done = [row for chunk in whole for row in tried[100 * chunk : 100 * chunk + 100]]
    assert len(done) >= 200 and not any(server.hits[f"/{row}.jpg"] for row in done), "none is asked for again"
