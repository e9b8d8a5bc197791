"""Commands that are ended while a store is slow: they go at once, say how they went, and leave nothing."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.object_store import BUCKET, ObjectStore
from tests.processes import until, wait_until_gone

COMMANDS = {
    "verify": ("shards", "verify", "{data}"),
    "decode": ("shards", "verify", "{data}", "--decode", "--workers", "2"),
    "filter": ("shards", "filter", "{data}", "--where", "width > 0", "--out", "{folder}/out"),
    "upload": ("shards", "filter", "{data}", "--where", "width > 0", "--out", "{data}-out"),
    "train": (
        "train",
        "--shards",
        "{data}",
        "--model",
        "ViT-Micro/16@32px",
        "--runs",
        "{folder}/runs",
        "--workers",
        "2",
    ),
}
GO_ON = 15  # seconds; a download takes longer here


@pytest.fixture
def uploaded(store: ObjectStore, small_dataset: Path, tmp_path: Path) -> str:
    store.fs.put(str(small_dataset), f"{BUCKET}/{tmp_path.name}", recursive=True)
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [
        "verify",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("decode", "filter", "upload", "train")),
    ],
)
def test_a_command_ends_while_its_transfers_do_not(
    store: ObjectStore, uploaded: str, tmp_path: Path, name: str, number: signal.Signals
) -> None:
    asked = threading.Event()

    def slow(method: str, path: str) -> str | None:
        if method != ("PUT" if name == "upload" else "GET") or not path.endswith(".tar"):
            return None
        asked.set()
        return "slow"

    store.fault = slow
    ended(started(name, uploaded, tmp_path), asked, number, tmp_path)


def started(name: str, data: str, folder: Path) -> "subprocess.Popen[bytes]":
    (folder / "tmp").mkdir()
    words = [word.format(data=data, folder=folder) for word in COMMANDS[name]]
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "clipkit", *words],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
            env=os.environ | {"TMPDIR": str(folder / "tmp")},
        )


def ended(
    process: "subprocess.Popen[bytes]", asked: threading.Event, number: signal.Signals, folder: Path
) -> None:
    try:
        until(lambda: asked.is_set() or process.poll() is not None, "a request")
        assert process.poll() is None, (folder / "said").read_text()
        # A terminal's Ctrl-C goes to all processes, what ends a job to the one that was started.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        assert process.wait(GO_ON) == 128 + number, (folder / "said").read_text()
        wait_until_gone(process.pid)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    said = (folder / "said").read_text()
    assert "Traceback" not in said, said
    assert not [*(folder / "tmp").glob("clipkit-*"), *(folder / "tmp").glob("pymp-*")]
    left = [path.name for place in ("cache", "out") for path in (folder / place).rglob(".*")]
    assert not left


PARTS = """
import sys, time
import s3fs.core
from pathlib import Path
from clipkit.locations import location
from clipkit.remote import Transfer
s3fs.core.calculate_chunksize = lambda size, chunksize=None: 5 << 20
place, source = location(sys.argv[1]), sys.argv[2]
place._put(Transfer(place), source, float(sys.argv[3])) if sys.argv[3:] else place.upload(Path(source))
"""


@pytest.mark.parametrize("how", ["interrupted", "timed out"])
def test_an_upload_in_parts_that_is_given_up_leaves_none(
    store: ObjectStore, tmp_path: Path, how: str
) -> None:
    (tmp_path / "file").write_bytes(bytes(11 << 20))
    asked = threading.Event()

    def slow(method: str, path: str) -> str | None:
        if method != "PUT" or "partNumber=3" not in path:
            return None
        asked.set()
        return "slow"

    store.fault = slow
    seconds = ["1"] if how == "timed out" else []
    words = [sys.executable, "-c", PARTS, f"s3://{BUCKET}/{tmp_path.name}/file", str(tmp_path / "file")]
    process = subprocess.Popen([*words, *seconds], stderr=subprocess.PIPE, start_new_session=True)
    assert asked.wait(60)
    begun = [path for method, path in store.requests if method == "POST" and "uploads" in path]
    if how == "interrupted":
        process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode and (b"KeyboardInterrupt" if how == "interrupted" else b"Timeout") in said
    assert len(begun) == 1
    assert "uploadId=" in next(path for method, path in store.requests if method == "DELETE")
    assert not store.fs.exists(f"{BUCKET}/{tmp_path.name}/file")
