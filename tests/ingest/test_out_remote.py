"""Ingest into a bucket of a real S3 server on loopback: the same bytes as on a disk, whatever happens."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from clipkit.shards.index import INDEX_FILE, read_index
from clipkit.shards.shard_set import ShardSet
from tests.datasets import contents, everything
from tests.ingest.interrupting import ended, started
from tests.object_store import BUCKET, ObjectStore
from tests.processes import until
from tests.serving import Server, answer, encoded, photo
from tests.shards.test_derive_interrupted import words as deriving

PICTURES, DEAD = 45, 5
SETTINGS = ("--allow-private-hosts", "--workers", "2", "--retries", "0", "--json")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server().running() as server:
        yield server


@pytest.fixture
def listed(server: Server, tmp_path: Path) -> Path:
    lines = []
    for number in range(PICTURES + DEAD):
        url = server.url(f"/{number}.jpg")
        if number < PICTURES:
            server.add(f"/{number}.jpg", answer(encoded(photo(64, 48, number))))
        lines.append(f"caption {number}\t{url}\n")
    path = tmp_path / "list.tsv"
    path.write_text("".join(lines))
    return path


def command(listed: Path, out: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "clipkit", "ingest", "cc", str(listed), "--out", out, *SETTINGS, *options]


def ingest(listed: Path, out: str, *options: str) -> dict[str, Any]:
    done = subprocess.run(command(listed, out, *options), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return cast("dict[str, Any]", json.loads(done.stdout))


def in_bucket(store: ObjectStore, out: str, folder: Path) -> dict[str, bytes]:
    store.fs.get(out, str(folder), recursive=True)
    return contents(folder)


def test_a_bucket_holds_the_same_bytes_as_a_disk(store: ObjectStore, listed: Path, tmp_path: Path) -> None:
    out = f"s3://{BUCKET}/{tmp_path.name}"
    result = ingest(listed, out)
    assert (result["records"], result["samples"], result["out"]) == (PICTURES + DEAD, PICTURES, out)
    ingest(listed, str(tmp_path / "disk"))
    assert in_bucket(store, out, tmp_path / "copy") == contents(tmp_path / "disk")
    assert everything(ShardSet(out)) == everything(ShardSet(tmp_path / "disk"))
    assert ingest(listed, out)["was_complete"] is True
    info = [sys.executable, "-m", "clipkit", "shards", "info", out, "--json"]
    told = json.loads(subprocess.run(info, capture_output=True, text=True, check=True).stdout)
    assert (told["samples"], told["failures"]) == (PICTURES, DEAD)


@pytest.mark.slow
def test_requests_that_fail_and_a_kill_leave_nothing_that_the_index_lists(
    store: ObjectStore, server: Server, listed: Path, tmp_path: Path
) -> None:
    ingest(listed, str(tmp_path / "disk"))
    out, hits = f"s3://{BUCKET}/{tmp_path.name}", {"PUT": 0}

    def every_third_upload(method: str, path: str) -> str | None:
        hits["PUT"] += method == "PUT"
        return ("500", "503", "reset")[hits["PUT"] % 3] if method == "PUT" and hits["PUT"] % 3 == 1 else None

    store.fault = every_third_upload
    small_chunks = command(listed, out)
    running = subprocess.Popen(
        small_chunks, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    until(lambda: any(method == "PUT" and "/parts/" in path for method, path in store.requests), "a part")
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert ingest(listed, out)["samples"] == PICTURES
    assert in_bucket(store, out, tmp_path / "copy") == contents(tmp_path / "disk")


def assert_index_is_true(folder: Path) -> None:
    """What the index lists, if there is one, is there, down to the bytes."""
    entries = read_index(folder).entries if (folder / INDEX_FILE).exists() else []
    for entry in entries:
        path = folder / entry.name
        assert sha256(path.read_bytes()).hexdigest() == entry.sha256
        if entry.kind == "shard":
            assert sha256(path.with_suffix(".parquet").read_bytes()).hexdigest() == entry.manifest_sha256


KILLS = [
    # of which command, at the upload of which file, at which of its uploads
    ("filter", "000001.parquet", 1),
    ("filter", "000001.tar", 1),
    ("filter", "index.parquet", 1),
    ("filter", "index.parquet", 2),
    ("cc", "000000.tar", 1),
    ("cc", "000000.parquet", 1),
    ("cc", "index.parquet", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["reset", None])
@pytest.mark.parametrize(("kind", "name", "number"), KILLS)
def test_a_kill_at_an_upload_leaves_an_index_that_is_true(
    store: ObjectStore,
    listed: Path,
    small_dataset: Path,
    tmp_path: Path,
    kind: str,
    name: str,
    number: int,
    fate: str | None,
) -> None:
    """The file that is being sent is lost, or arrives nevertheless."""

    def words(out: str) -> list[str]:
        return command(listed, out)[1:] if kind == "cc" else deriving(small_dataset, out)

    def content() -> bytes | None:
        try:
            return cast("bytes", store.fs.cat_file(f"{out}/{name}"))
        except FileNotFoundError:
            return None

    def kill(method: str, path: str) -> str | None:
        if (method, path.partition("?")[0]) != ("PUT", f"/{BUCKET}/{tmp_path.name}/{name}"):
            return None
        asked.append(content())
        if len(asked) != number:
            return None
        os.killpg(process.pid, signal.SIGKILL)
        return fate

    out, asked = f"s3://{BUCKET}/{tmp_path.name}", list[bytes | None]()
    store.fault = kill
    process = started(words(out), tmp_path)
    code, _, errors = ended(process)
    assert code == -signal.SIGKILL and len(asked) == number, errors
    until(lambda: fate or content() != asked[-1], "what was sent has arrived")
    in_bucket(store, out, tmp_path / "left")
    assert_index_is_true(tmp_path / "left")
    for again in (out, str(tmp_path / "disk")):
        code, _, errors = ended(started(words(again), tmp_path))
        assert code == 0, errors
    assert in_bucket(store, out, tmp_path / "copy") == contents(tmp_path / "disk")
    assert len(ShardSet(out)) == len(ShardSet(tmp_path / "disk"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_quarter_of_all_requests_may_fail(
    store: ObjectStore, listed: Path, tmp_path: Path, seed: int
) -> None:
    random, drawing, failed = Random(seed), threading.Lock(), Counter[str]()

    def fault(method: str, path: str) -> str | None:
        with drawing:
            kinds = ["500", "503", "reset", "short" if method == "GET" else "503"]
            if random.random() > 0.25 or failed[path] == 2:  # a request may be made of two
                return None
            failed[path] += 1
            return random.choice(kinds)

    store.fault = fault
    out, chosen = f"s3://{BUCKET}/{tmp_path.name}", ("--where", "source_row % 3 > 0", "--out")
    for source, made in ((str(tmp_path / "disk"), str(tmp_path / "chosen")), (out, f"{out}-chosen")):
        for words in (
            command(listed, source),
            [sys.executable, "-m", "clipkit", "shards", "filter", source, *chosen, made],
            [sys.executable, "-m", "clipkit", "shards", "verify", made, "--decode"],
        ):
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode == 0 and "Unclosed" not in done.stderr, done.stderr
    store.fault = lambda method, path: None
    assert in_bucket(store, out, tmp_path / "copy") == contents(tmp_path / "disk")
    derived = in_bucket(store, f"{out}-chosen", tmp_path / "other"), contents(tmp_path / "chosen")
    assert [sorted(each) for each in derived[:1]] == [sorted(each) for each in derived[1:]]
    assert everything(ShardSet(f"{out}-chosen")) == everything(ShardSet(tmp_path / "chosen"))


@pytest.mark.slow
def test_a_later_pass_goes_into_the_bucket_too(
    store: ObjectStore, server: Server, listed: Path, tmp_path: Path
) -> None:
    server.add("/3.jpg", answer(b"", status=503))
    for out in (f"s3://{BUCKET}/{tmp_path.name}", str(tmp_path / "disk")):
        assert ingest(listed, out)["retryable"] == 1
    server.add("/3.jpg", answer(encoded(photo(64, 48, 3))))
    for out in (f"s3://{BUCKET}/{tmp_path.name}", str(tmp_path / "disk")):
        assert ingest(listed, out, "--retry-failed")["samples"] == PICTURES
    assert in_bucket(store, f"s3://{BUCKET}/{tmp_path.name}", tmp_path / "copy") == contents(
        tmp_path / "disk"
    )


@pytest.mark.slow
def test_a_dataset_is_not_made_inside_another(store: ObjectStore, listed: Path, tmp_path: Path) -> None:
    out = f"s3://{BUCKET}/{tmp_path.name}"
    ingest(listed, out, "--limit", "3")
    before = store.fs.find(out)
    for inside in ("parts", "train"):
        done = subprocess.run(command(listed, f"{out}/{inside}"), capture_output=True, text=True)
        assert done.returncode == 1 and "outside of datasets, found one inside" in done.stderr, done.stderr
    assert store.fs.find(out) == before
    store.fault = lambda method, path: "403" if path.count("/") == 2 and "/dataset.json" in path else None
    ingest(listed, f"s3://{BUCKET}/{tmp_path.name}-other", "--limit", "3")


@pytest.mark.slow
def test_an_address_that_cannot_be_written_is_one_line(store: ObjectStore, listed: Path) -> None:
    for out, words in (
        ("s3://no-such-bucket/x", "bucket does not exist"),
        ("https://127.0.0.1:1/x", "cannot be written"),
        ("ftp://127.0.0.1/x", "found ftp://"),
    ):
        done = subprocess.run(command(listed, out), capture_output=True, text=True)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) <= 3 and done.stdout == ""
