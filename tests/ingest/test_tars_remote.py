"""Tars behind addresses, through whole commands: a real S3 server and a web server, both on loopback."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from clipkit.errors import DatasetError
from clipkit.ingest.rows import Fetched
from clipkit.ingest.tar_rows import read_member
from clipkit.ingest.tars import tars
from clipkit.shards.cache import Wanted
from tests.datasets import contents
from tests.object_store import BUCKET, ObjectStore
from tests.processes import until
from tests.serving import Web, encoded, photo
from tests.tars import write_img2dataset

TARS, ROWS = 4, 60
RECORDS = TARS * ROWS
PATTERN = "{00000..00003}.tar"
NAMES = [f"{number:05d}.{ending}" for number in range(TARS) for ending in ("tar", "parquet")]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What img2dataset leaves: every fifth URL failed."""
    folder = tmp_path_factory.mktemp("images") / "images"
    pictures = [encoded(photo(40, 50, seed)) for seed in range(7)]
    for shard in range(TARS):
        rows: list[dict[str, Any]] = []
        for number in range(ROWS):
            row: dict[str, Any] = {"url": f"http://127.0.0.1:9/{shard}/{number}", "caption": f"«{number}»"}
            gone = {"status": "failed_to_download", "error_message": "HTTP Error 404: Not Found"}
            rows.append(row | ({"jpg": pictures[number % 7]} if number % 5 else gone))
        write_img2dataset(folder, shard, rows)
    return folder


@pytest.fixture
def there(store: ObjectStore, images: Path, tmp_path: Path) -> str:
    """The same in a bucket."""
    store.fs.put(str(images), f"{BUCKET}/{tmp_path.name}", recursive=True)
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture
def web(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    with Web(images).running() as web:
        yield web


def command(source: str, out: Path, *options: str) -> list[str]:
    settings = ("--image-size", "32", "--workers", "2", "--json")
    return [sys.executable, "-m", "clipkit", "ingest", "tars", source, "--out", str(out), *settings, *options]


def ingest(source: str, out: Path, *options: str) -> dict[str, Any]:
    done = subprocess.run(command(source, out, *options), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return cast("dict[str, Any]", json.loads(done.stdout))


def refused(source: str, out: Path) -> str:
    done = subprocess.run(command(source, out), capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and not out.exists(), done.stderr
    return done.stderr.splitlines()[-1] if "Traceback" not in done.stderr else pytest.fail(done.stderr)


@pytest.mark.slow
def test_a_bucket_gives_the_same_bytes_as_a_disk(
    store: ObjectStore, there: str, images: Path, tmp_path: Path
) -> None:
    ingest(str(images), tmp_path / "disk", "--keep-col", "status")
    failed = Counter[str]()

    def fault(method: str, path: str) -> str | None:
        failed[path] += method == "GET" and path.endswith("/00001.tar")
        return "503" if failed[path] == 1 else None

    store.fault = fault
    for number, source in enumerate((there, f"{there}/{PATTERN}")):
        out = tmp_path / f"out{number}"
        result = ingest(source, out, "--keep-col", "status")
        assert (result["records"], result["failures"]) == (RECORDS, {"http_4xx": RECORDS // 5})
        assert contents(out) == contents(tmp_path / "disk")
    assert ingest(there, tmp_path / "out0", "--keep-col", "status")["was_complete"] is True
    bodies = Counter(path.rpartition("/")[2] for method, path in store.requests if method == "GET")
    once = dict.fromkeys(NAMES, 1)  # for all three
    assert {name: bodies[name] for name in NAMES} == once | {"00001.tar": 2}


def test_a_web_server_that_is_busy_for_a_while_gives_the_same_bytes(
    web: Web, images: Path, tmp_path: Path
) -> None:
    ingest(str(images), tmp_path / "disk")
    web.busy.update({"/00001.tar": 2, "/00002.parquet": 1})
    ingest(f"{web.address}/{PATTERN}", tmp_path / "web")
    assert contents(tmp_path / "web") == contents(tmp_path / "disk")
    assert web.busy.total() == 0 and web.got["/00001.tar"] >= 3


def test_a_dataset_of_clipkit_behind_a_web_server_is_adopted(web: Web, images: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    ingest(str(images), dataset)
    ingest(str(dataset), tmp_path / "disk")
    with Web(tmp_path).running() as other:
        result = ingest(f"{other.address}/dataset", tmp_path / "web")
    assert result["records"] == RECORDS - RECORDS // 5
    assert contents(tmp_path / "web") == contents(tmp_path / "disk")


@pytest.mark.slow
def test_what_is_missing_or_cut_off_is_one_line(
    store: ObjectStore, there: str, web: Web, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for folder in (there, web.address):
        line = refused(f"{folder}/{{00002..00004}}.tar", out)
        assert f"{folder}/00004.tar: expected a tar, found no such file; check the name" in line, line
    store.fs.pipe(f"{there}/00003.tar", (images / "00003.tar").read_bytes()[:5000])
    assert "00003.tar" in (line := refused(there, out)) and "was it cut off?" in line
    assert "/nothing: expected a tar, found no such file" in refused(f"{web.address}/nothing", out)
    assert "found none (3c 21 " in (line := refused(web.address, out)) and "as web servers list no" in line


@pytest.mark.slow
def test_a_table_that_may_not_be_read_counts_as_not_there(
    store: ObjectStore, there: str, images: Path, tmp_path: Path
) -> None:
    store.fault = lambda method, path: "403" if path.endswith(".parquet") else None
    done = subprocess.run(command(there, tmp_path / "out"), capture_output=True, text=True)
    assert done.returncode == 0 and "4 tables such as " in done.stderr, done.stderr
    assert json.loads(done.stdout)["records"] == RECORDS - RECORDS // 5


@pytest.mark.slow
def test_a_store_that_stays_broken_is_one_line(store: ObjectStore, there: str, tmp_path: Path) -> None:
    store.fault = lambda method, path: "503" if method == "GET" and path.endswith("1.tar") else None
    assert "00001.tar: expected to read it, found: HTTP 503" in refused(there, tmp_path / "out")


def test_a_tar_that_changed_since_it_was_checked_is_not_read(
    store: ObjectStore, there: str, images: Path, tmp_path: Path
) -> None:
    rows = [row for row in tars([there]) if row.span]
    file, span = rows[-1].file, rows[-1].span
    assert isinstance(file, Wanted) and span
    assert isinstance(read_member(file, *span, 10**6), Fetched)
    shutil.rmtree(tmp_path / "cache")
    content = bytearray((images / "00003.tar").read_bytes())
    content[span[0]] ^= 1
    store.fs.pipe(f"{there}/00003.tar", bytes(content))
    with pytest.raises(
        DatasetError, match=r"00003\.tar: expected [0-9,]+ bytes of SHA-256 .*found as many of"
    ):
        read_member(file, *span, 10**6)


@pytest.mark.slow
def test_a_cache_that_holds_one_tar_at_a_time_is_enough(
    store: ObjectStore, there: str, images: Path, tmp_path: Path
) -> None:
    ingest(str(images), tmp_path / "disk")
    room = max(path.stat().st_size for path in images.glob("*.tar")) + 50_000
    small = {"CLIPKIT_CACHE_BYTES": str(room), "CLIPKIT_CACHE": str(tmp_path / "small")}
    out = tmp_path / "out"
    done = subprocess.run(command(there, out), capture_output=True, text=True, env=os.environ | small)
    assert done.returncode == 0, done.stderr
    assert contents(out) == contents(tmp_path / "disk")
    bodies = Counter(path for method, path in store.requests if method == "GET" and path.endswith(".tar"))
    assert bodies.total() > TARS, "the cache held them all"


@pytest.mark.slow
def test_a_killed_ingest_goes_on_to_the_same_bytes(
    store: ObjectStore, there: str, images: Path, tmp_path: Path
) -> None:
    ingest(str(images), tmp_path / "disk")
    out, cache = tmp_path / "out", tmp_path / "cache" / "files"
    store.fault = lambda method, path: "slow" if method == "GET" and path.endswith("00002.tar") else None
    for is_far in (lambda: len(list(cache.glob("*.tar"))) == TARS - 1, lambda: (out / "parts").is_dir()):
        running = subprocess.Popen(
            command(there, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        until(is_far, "the tars, or the parts")
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        store.fault = lambda method, path: None
    ingest(there, out)
    assert contents(out) == contents(tmp_path / "disk")
    assert store.requests.count(("GET", f"/{there.removeprefix('s3://')}/00000.tar")) == 1
    store.fs.pipe(f"{there}/00003.tar", (images / "00002.tar").read_bytes())
    done = subprocess.run(command(there, out), capture_output=True, text=True)
    assert done.returncode == 1 and "sha256 of 00003.tar was " in done.stderr, done.stderr
