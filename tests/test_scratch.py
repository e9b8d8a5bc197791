"""Temporary files of processes that live, were killed, or belong to somebody else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipkit import scratch
from clipkit.errors import StorageError
from clipkit.locations import location
from clipkit.shards.cache import Cache, Wanted
from tests.object_store import BUCKET, ObjectStore
from tests.processes import until

HOLDS = """
import sys
from clipkit import scratch
with scratch.folder() as folder:
    (folder / "half").write_bytes(b"x")
    print(folder.parent, flush=True)
    sys.stdin.read()
scratch.clear()
"""

ENDS = """
import os, threading, time
from clipkit import scratch

def download():
    while True:
        with scratch.folder() as folder:
            for number in range(20):
                (folder / str(number)).write_bytes(b"x")

for _ in range(8):
    threading.Thread(target=download, daemon=True).start()
time.sleep(0.05)
scratch.clear()
time.sleep(0.05)
os._exit(0)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("clipkit.scratch._own", None)
    monkeypatch.setattr("clipkit.scratch._ended", False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def holding() -> "tuple[subprocess.Popen[str], Path]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_kill_leaves_goes_at_the_next_start_and_what_is_used_stays(temporary: Path) -> None:
    killed, left = holding()
    living, used = holding()
    killed.kill()
    killed.communicate()
    assert list(left.rglob("half")), "a kill leaves it"
    with scratch.folder() as own:
        assert own.is_dir() and not left.exists() and list(used.rglob("half"))
    scratch.clear()
    assert list(used.rglob("half"))
    living.communicate("")
    assert living.returncode == 0 and not list(temporary.iterdir())


@pytest.mark.parametrize("repetition", range(5))
def test_threads_that_go_on_leave_nothing_at_the_end(temporary: Path, repetition: int) -> None:
    subprocess.run([sys.executable, "-c", ENDS], stderr=subprocess.DEVNULL, check=True)
    assert not list(temporary.iterdir())


def test_an_error_leaves_nothing(temporary: Path) -> None:
    with pytest.raises(ZeroDivisionError), scratch.folder() as own:
        (own / "half").write_bytes(b"x")
        raise ZeroDivisionError
    scratch.clear()
    assert not list(temporary.iterdir())


def test_a_place_that_others_may_write_into_is_refused(temporary: Path) -> None:
    for place in temporary / f"clipkit-{os.getuid()}", temporary / "elsewhere":
        place.mkdir()
        place.chmod(0o777)
    with pytest.raises(StorageError, match="expected a folder of this user's alone, found another one"):
        scratch.folder().__enter__()
    (temporary / f"clipkit-{os.getuid()}").rmdir()
    (temporary / f"clipkit-{os.getuid()}").symlink_to(temporary / "elsewhere")
    with pytest.raises(StorageError, match="expected a folder of this user's alone"):
        scratch.folder().__enter__()
    assert not list((temporary / "elsewhere").iterdir())


def test_half_a_download_in_the_cache_goes_before_the_next_one(store: ObjectStore, tmp_path: Path) -> None:
    store.fs.pipe(f"{BUCKET}/a/file.tar", b"content")
    address = f"s3://{BUCKET}/a/file.tar"
    code = (
        "import sys; from clipkit.locations import location; from clipkit.shards.cache import Cache, Wanted; "
        "Cache().fill(Wanted(location(sys.argv[1]), 7))"
    )
    store.fault = lambda method, path: "slow"
    process = subprocess.Popen([sys.executable, "-c", code, address])
    folder = tmp_path / "cache" / "files"
    until(lambda: list(folder.glob(".*.tmp")), "a download")
    process.kill()
    process.wait()
    assert list(folder.glob(".*.tmp"))
    store.fault = lambda method, path: None
    store.fs.copy(address, f"s3://{BUCKET}/a/other-file.tar")
    Cache().fill(Wanted(location(f"s3://{BUCKET}/a/other-file.tar"), 7))
    assert [path.name[-8:] for path in folder.iterdir()] == ["file.tar"]
