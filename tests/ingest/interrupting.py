"""A whole ingest as a process that something is done to at an exact moment; see tests/faults."""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import NamedTuple

from clipkit.ingest.config import IngestConfig
from tests.serving import Server, answer, encoded, photo

ROOT = Path(__file__).parent.parent.parent
RECORDS = 2300  # two whole shards and a third one
CHUNK_ROWS = 50
CONFIG = IngestConfig(
    image_size=32, workers=1, connections=16, timeout=30, chunk_rows=CHUNK_ROWS, allow_private_hosts=True
)

# As the command, but of small chunks, and the index is replaced for every shard, not only every few seconds.
PROGRAM = """
import sys
from pathlib import Path
from clipkit.ingest.conceptual_captions import conceptual_captions
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.run import ingest
from clipkit.shards.packing import Packer
Packer.__init__.__kwdefaults__["commit_seconds"] = 0.0
config = IngestConfig.model_validate_json(sys.argv[3])
ingest(conceptual_captions([Path(sys.argv[1])]), Path(sys.argv[2]), config)
"""


def program(path: Path, out: Path) -> list[str]:
    """The words that make Python ingest the list at `path` into `out`."""
    return ["-c", PROGRAM, str(path), str(out), CONFIG.model_dump_json()]


def command(path: Path, out: Path) -> list[str]:
    """The words that make Python run the command line on the list at `path`."""
    words = ["-m", "clipkit", "ingest", "cc", str(path), "--out", str(out), "--allow-private-hosts"]
    return [*words, "--image-size", "32", "--workers", "1", "--json"]


class Moment(NamedTuple):
    """The `number`th of the `calls` on a path that `path` matches, `before` it or after it."""

    calls: str
    path: str
    number: int = 1
    before: bool = True


class Pictures:
    """Answers requests for pictures, and ends who asks at one of them, at a stage of the answer."""

    STAGES = 4

    def __init__(self, server: Server):
        self._server = server
        self._pictures = [encoded(photo(40 + seed, 50, seed)) for seed in range(40)]
        self._lock = threading.Lock()
        self._left = self._stage = self._group = 0

    def listed(self, path: Path, records: int = RECORDS) -> Path:
        """Write a list of so many records; every tenth is no picture, every hundredth is gone."""
        urls = [self._server.add(f"/{row}", self._answer) for row in range(records)]
        urls[::100] = [f"{url}/gone" for url in urls[::100]]
        path.write_text("".join(f"picture «{row}»\t{url}\n" for row, url in enumerate(urls)))
        return path

    def kill(self, group: int, request: int, stage: int) -> None:
        """Kill the process group at a request to come (1: the next), before, amidst or after the answer."""
        with self._lock:
            self._group, self._left, self._stage = group, request, stage

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        row = int(request.path.strip("/"))
        body = b"<html>" if row % 10 == 9 else self._pictures[row % 40]
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body)
            pieces = (b"", head, head + b"\r\n" + body[: len(body) // 2], head + b"\r\n" + body)
            request.wfile.write(pieces[self._stage])
            os.killpg(self._group, signal.SIGKILL)
            request.close_connection = True
        else:
            answer(body)(request)


def started(
    words: list[str],
    folder: Path,
    moment: Moment | None = None,
    deed: str = "SIGKILL",
    record: Path | None = None,
) -> "subprocess.Popen[str]":
    """Start a Python process in a group of its own; at the moment, the deed is done to all of the group.

    `folder` gets the file `deeds`, which tells that it was, and `blocker`, should the deed be FILL; the
    folder `record` a record of the work on files.
    """
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tests' / 'faults'}:{ROOT}"}
    if moment:
        fault = moment._asdict() | {"calls": moment.calls.split(), "deed": deed}
        environment |= {"FAULT": json.dumps(fault), "FAULT_LOG": str(folder / "deeds")}
        environment |= {"FILLED": str(folder / "blocker")}
    if record:
        environment |= {"RECORD": str(record)}
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment,
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait until the process and all that it started are gone; return exit code, output and errors."""
    try:
        output, errors = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output, errors
