"""Datasets at gs://: gcsfs against an emulator of Google's buckets on loopback, with faults at its door."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from clipkit.errors import ConfigError
from clipkit.locations import location
from clipkit.remote import RefusedError, RemoteError, TooLargeError
from clipkit.remote_path import RemotePath
from clipkit.shards.repair import repair
from clipkit.shards.shard_set import ShardSet
from clipkit.shards.verify import verify
from tests.conftest import picture
from tests.datasets import contents, everything
from tests.object_store import BUCKET, ObjectStore, google_server
from tests.processes import until, wait_until_gone
from tests.serving import Server, answer
from tests.shards.test_repair import damaged

LACKING = [name for name in ("gcsfs", "gcp_storage_emulator") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)} (make test-all does it)"),
]
CONTENT = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with google_server(tmp_path_factory.mktemp("gs")) as port:
        yield port


@pytest.fixture
def google(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """The emulator with a bucket, to which the environment points; whatever fails is tried again soon."""
    from gcsfs.core import GCSFileSystem

    address = f"http://127.0.0.1:{port}"
    fs = GCSFileSystem(token="anon", endpoint_url=address, use_listings_cache=False, skip_instance_cache=True)
    with ObjectStore(port, fs).running() as store:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.endpoint)
        monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("clipkit.remote._PAUSES", (0.01, 0.01))
        yield store


@pytest.fixture
def uploaded(google: ObjectStore, small_dataset: Path, tmp_path: Path) -> str:
    address = f"gs://{BUCKET}/{tmp_path.name}"
    for path in small_dataset.rglob("*"):
        if path.is_file():
            RemotePath.parse(f"{address}/{path.relative_to(small_dataset)}").upload(path)
    return address


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A list of 1,100 pictures: the first shard is more than gcsfs uploads in one request."""
    rows = ["filepath\ttitle"]
    for number in range(1100):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(picture(number, 256, 256))
        rows.append(f"{path}\tpicture {number}")
    (tmp_path / "list.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path / "list.tsv"


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "clipkit", *map(str, words)]


def ingest(pictures: Path, out: object) -> list[str]:
    columns = ("--image-col", "filepath", "--caption-col", "title")
    return command("ingest", "files", pictures, *columns, "--out", out)


def told(*words: object) -> dict[str, Any]:
    done = subprocess.run(command(*words, "--json"), capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return cast("dict[str, Any]", json.loads(done.stdout))


def test_from_pictures_to_a_trained_model(google: ObjectStore, pictures: Path, tmp_path: Path) -> None:
    data = f"gs://{BUCKET}/{tmp_path.name}-a"
    for out in (tmp_path / "local", data):
        done = subprocess.run(ingest(pictures, out), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "gcsfs" not in done.stderr and "credentials" not in done.stderr
    assert everything(ShardSet(data)) == everything(ShardSet(tmp_path / "local"))
    assert any("uploadType=resumable" in path for _, path in google.requests)
    assert not google.fs.exists(f"{data}/parts")
    assert told("shards", "info", data)["samples"] == 1100
    assert told("shards", "verify", data, "--decode")["ok"] is True
    assert told("shards", "show", data, "000001007")["caption"] == "picture 1007"
    told("shards", "filter", data, "--where", "source_row % 2 = 0", "--out", f"{data}-even")
    told("shards", "dedup", data, "--against", f"{data}-even", "--out", f"{data}-odd")
    assert (len(ShardSet(f"{data}-even")), len(ShardSet(f"{data}-odd"))) == (550, 550)
    train = ("train", "--model", "ViT-Micro/16@32px", "--batch-size", 50, "--samples-seen", 100)
    results = [
        told(*train, "--workers", 2, "--shards", each, "--runs", tmp_path / "runs", "--name", name)
        for name, each in (("gs", data), ("local", tmp_path / "local"))
    ]
    losses = [
        [
            json.loads(line).get("loss")
            for line in (tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("gs", "local")
    ]
    assert losses[0] == losses[1] and any(losses[0]), results


@pytest.mark.parametrize("fault", ["500", "503", "short", "reset"])
def test_what_may_pass_is_tried_again(
    google: ObjectStore, uploaded: str, small_dataset: Path, fault: str
) -> None:
    failed: set[str] = set()

    def once(method: str, path: str) -> str | None:
        is_first = path not in failed
        failed.add(path)
        return fault if is_first else None

    google.fault = once
    assert everything(ShardSet(uploaded)) == everything(ShardSet(small_dataset))
    assert any(".tar?" in path for path in failed)


def test_what_stays_wrong_is_asked_for_by_clipkit_alone(
    google: ObjectStore, uploaded: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    path = RemotePath.parse(f"{uploaded}/new")
    google.fault = lambda method, path: "503"
    for doing, ask in (
        ("read", path.read_bytes),
        ("read", lambda: path.read_range(5, 5)),
        ("write", lambda: path.upload(tmp_path / "file")),
        ("remove", path.unlink),
    ):
        google.requests.clear()
        with pytest.raises(
            RemoteError, match=f"/new: expected to {doing} it, found: HTTP 503 .*tried 3 times"
        ):
            ask()
        assert len(google.requests) == 3, google.requests


def test_a_refusal_is_asked_for_once(google: ObjectStore, uploaded: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    path = RemotePath.parse(f"{uploaded}/index.parquet")
    google.fault = lambda method, path: "403"
    for ask in (path.read_bytes, path.unlink, lambda: path.upload(tmp_path / "file")):
        google.requests.clear()
        with pytest.raises(RefusedError, match=r"HTTP 403 \(.*not now, not you.*\); .* no keys were found"):
            ask()
        assert len(google.requests) == 1, google.requests


def test_no_bucket_is_told_from_no_file(google: ObjectStore, uploaded: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    nowhere = RemotePath.parse("gs://no-such-bucket/a/file")
    for ask in (nowhere.read_bytes, nowhere.exists, lambda: nowhere.upload(tmp_path / "file")):
        with pytest.raises(RemoteError, match=r"no-such-bucket/a/file: .*the bucket does not exist"):
            ask()
    absent = RemotePath.parse(f"{uploaded}/nothing")
    google.requests.clear()
    for _ in range(5):
        with pytest.raises(FileNotFoundError):
            absent.read_bytes()
    listed = [path for _, path in google.requests if path.startswith(f"/storage/v1/b/{BUCKET}/o?")]
    assert len(listed) == 1, "that the bucket is there is asked once"


def test_folders_are_listed_and_removed(uploaded: str) -> None:
    folder = location(uploaded)
    assert {"000000.tar", "index.parquet"} <= {path.name for path in folder.iterdir()}
    assert (folder.is_dir(), folder.is_file(), (folder / "000000.tar").is_file()) == (True, False, True)
    cast("RemotePath", folder).remove_tree()
    cast("RemotePath", folder).remove_tree()
    assert not folder.exists()


def test_a_file_of_several_chunks_and_ranges_of_it(google: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(60 << 20)  # gcsfs cuts at 50 MiB
    (tmp_path / "file").write_bytes(content)
    path = RemotePath.parse(f"gs://{BUCKET}/{tmp_path.name}")
    chunks: Counter[str] = Counter()

    def second_fails_once(method: str, path: str) -> str | None:
        chunks["sent"] += "upload_id" in path
        return "503" if "upload_id" in path and chunks["sent"] == 2 else None

    google.fault = second_fails_once
    path.upload(tmp_path / "file")
    assert path.stat().st_size == len(content) and path.read_bytes() == content
    assert path.read_range(123_456, 20 << 20) == content[123_456 : 123_456 + (20 << 20)]
    assert path.read_range(len(content) - 5, 100) == content[-5:]


def test_what_is_told_is_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url(""))
    server.add("/storage/v1/b/bucket/o/x", answer(bytes((1 << 24) + 1)))
    server.add("/download/storage/v1/b/bucket/o/x?alt=media", answer(bytes(1001)))
    path = RemotePath.parse("gs://bucket/x")
    with pytest.raises(TooLargeError, match="at most 16,777,216 bytes of an answer"):
        path.info()
    with pytest.raises(TooLargeError, match="gs://bucket/x: expected at most 1,000 bytes"):
        path.read_bytes(1000)


def test_what_falls_silent_is_not_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url(""))
    monkeypatch.setattr("clipkit.gcs.SILENT_SECONDS", 0.2)
    monkeypatch.setattr("clipkit.remote._PAUSES", (0.01,))
    server.add("/download/storage/v1/b/bucket/o/x?alt=media", server.silence)
    with pytest.raises(RemoteError, match=r"found: Timeout on reading .*tried 2 times"):
        RemotePath.parse("gs://bucket/x").download(tmp_path / "x")


def test_no_keys_are_sent_unless_they_are_wanted(
    google: ObjectStore, uploaded: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert location(uploaded).is_dir() and not any(google.signed)
    monkeypatch.setenv("CLIPKIT_GS_ANONYMOUS", "yes")
    with pytest.raises(ConfigError, match="CLIPKIT_GS_ANONYMOUS: expected 1 or 0, found 'yes'"):
        location(uploaded).is_dir()


def test_what_is_removed_is_of_that_very_name(google: ObjectStore, tmp_path: Path) -> None:
    names = ["data/parts2", "data1/parts", "data[1]/parts", "data*/parts"]
    (tmp_path / "file").write_bytes(CONTENT)
    for name in names:
        RemotePath.parse(f"gs://{BUCKET}/{tmp_path.name}/{name}/file").upload(tmp_path / "file")
    for name in ("data*/parts", "data[1]/parts", "data/parts"):
        RemotePath.parse(f"gs://{BUCKET}/{tmp_path.name}/{name}").remove_tree()
    for name in names:
        stays = name in ("data/parts2", "data1/parts")
        assert location(f"gs://{BUCKET}/{tmp_path.name}/{name}/file").exists() == stays


def test_a_repair_makes_what_it_does_on_a_disk(
    google: ObjectStore, small_dataset: Path, tmp_path: Path
) -> None:
    dataset = shutil.copytree(small_dataset, tmp_path / "dataset")
    damaged(dataset)
    address = location(f"gs://{BUCKET}/{tmp_path.name}")
    for path in (path for path in dataset.rglob("*") if path.is_file()):
        cast("RemotePath", address / path.relative_to(dataset)).upload(path)
    repair(dataset)
    google.requests.clear()
    google.fault = lambda method, path: (
        "403" if sum(method == "POST" for method, _ in google.requests) > 11 else None
    )
    with pytest.raises(RefusedError, match="the repair is half done, and the same command finishes it"):
        repair(address)
    google.fault = lambda method, path: None
    repair(address)
    assert verify(address).counts == verify(dataset).counts
    for name, content in contents(dataset).items():
        assert (address / name).read_bytes() == content, name
    assert not (address / ".repair").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_is_ended_amidst_an_upload_goes_on(
    google: ObjectStore, pictures: Path, tmp_path: Path, number: signal.Signals
) -> None:
    data = f"gs://{BUCKET}/{tmp_path.name}-killed"
    asked = threading.Event()

    def slow(method: str, path: str) -> str | None:
        if method != "POST" or "000000.tar" not in path or "parts" in path:
            return None
        asked.set()
        return "slow"

    google.fault = slow
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(ingest(pictures, data), stdout=said, stderr=said, start_new_session=True)
    try:
        until(lambda: asked.is_set() or process.poll() is not None, "an upload")
        process.send_signal(number)
        assert process.wait(15) == (-number if number == signal.SIGKILL else 128 + number)
        wait_until_gone(process.pid)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert "Traceback" not in (tmp_path / "said").read_text()
    google.fault = lambda method, path: None
    for out in (data, tmp_path / "local"):
        done = subprocess.run(ingest(pictures, out), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert everything(ShardSet(data)) == everything(ShardSet(tmp_path / "local"))
    assert told("shards", "verify", data)["ok"] is True
