import io
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipkit.shards.dataset import DatasetDescription, Pass, SourceFile, Totals, open_for_writing
from clipkit.shards.packing import Packer
from clipkit.shards.parts import PartWriter
from tests.object_store import BUCKET, ObjectStore, s3_server
from tests.serving import Server

WriteDataset = Callable[..., Path]

_LONG = (
    *("test_readme.py", "test_streams.py", "test_repair_in_buckets.py", "test_repair.py", "test_outage.py"),
    *("test_tars_remote.py", "test_remote.py", "test_reading.py", "test_peers_openai.py", "test_cli.py"),
)
"""The files that take longest: begun first, for one that comes last leaves all processes but its own idle."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a script's background: commands would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; else the order stays."""
    items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.fixture(scope="session", autouse=True)
def a_cache_of_the_tests_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CLIPKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def a_fork_server_for_each_file() -> Iterator[None]:
    """That which another file began lacks what this one's workers import, and each would import it itself."""
    yield
    server = forkserver._forkserver
    if server._forkserver_pid is not None:  # type: ignore[attr-defined]
        with suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]
    server._stop()  # type: ignore[attr-defined]


def picture(seed: int, width: int = 48, height: int = 40) -> bytes:
    """A JPEG of smooth random colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(data, "JPEG", quality=95)
    return data.getvalue()


def _write_dataset(directory: Path, samples: int, chunk_rows: int = 50, fail_every: int = 0) -> Path:
    """A complete dataset of seeded pictures, as ingest writes it; every `fail_every`th row is a dead link."""
    description = DatasetDescription(
        sources=(SourceFile(name="list.tsv", bytes=0, sha256="0" * 64),), image={}, chunk_rows=chunk_rows
    )
    with open_for_writing(directory, description) as dataset:
        dataset.begin(Pass(kind="list", records=samples))
        packer = Packer(directory)
        chunks = range(0, samples, chunk_rows)
        for chunk, first in enumerate(chunks):
            with PartWriter(packer.parts, chunk) as part:
                for row in range(first, min(first + chunk_rows, samples)):
                    known = {"source": "list.tsv", "source_row": row, "url": f"http://example.com/{row}"}
                    known["caption"] = f"caption of picture number {row}"
                    if fail_every and row % fail_every == 0:
                        failure = {
                            "reason": "http_4xx",
                            "http_status": 404,
                            "attempts": 1,
                            "retryable": False,
                        }
                        part.failure(known | failure)
                    else:
                        data = picture(row)
                        size = {"width": 48, "height": 40, "original_width": 48, "original_height": 40}
                        original = {"original_format": "jpeg", "original_bytes": len(data), "ext": "jpg"}
                        hashes = {"sha256": sha256(data).hexdigest(), "dhash": row}
                        part.success(known | size | original | hashes, data)
            packer.add(chunk)
        index = packer.finish(len(chunks))
        made = sum(shard.samples for shard in index.shards)
        dataset.finish(
            Totals(records=samples, samples=made, failures=samples - made, shards=len(index.shards))
        )
    return directory


@pytest.fixture(scope="session")
def write_dataset() -> WriteDataset:
    return _write_dataset


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 64 samples in one shard. Read it, do not change it."""
    return _write_dataset(tmp_path_factory.mktemp("tiny") / "dataset", 64)


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 2,400 records, 2,160 samples in three shards, 240 failures. Read it, do not change it."""
    return _write_dataset(tmp_path_factory.mktemp("small") / "dataset", 2400, 700, fail_every=10)


@contextmanager
def disk_of(size: str, place: Path) -> Iterator[Path]:
    """A real file system of that size, 4m say, in the new folder `place`."""
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    mounted = subprocess.run(words, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of four megabytes."""
    with disk_of("4m", tmp_path / "disk") as place:
        yield place


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on loopback whose answers the test writes."""
    with Server().running() as served:
        yield served


@pytest.fixture(scope="session")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with s3_server(tmp_path_factory.mktemp("s3")) as port:
        yield port


@pytest.fixture
def store(s3_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A real S3 server with a bucket, to which the environment points; whatever fails is tried again soon."""
    with ObjectStore(s3_port).running() as store:
        for name, value in (store.environment() | {"CLIPKIT_CACHE": str(tmp_path / "cache")}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("clipkit.remote._PAUSES", (0.01, 0.01))
        store.fs.mkdirs(BUCKET, exist_ok=True)
        yield store
