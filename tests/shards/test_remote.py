"""Datasets behind addresses: a real S3 server and a real web server on loopback, with their faults."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest

from clipkit.errors import ConfigError, DatasetError, StorageError
from clipkit.locations import downloaded, location
from clipkit.remote import RefusedError, RemoteError
from clipkit.shards.cache import Cache, Wanted
from clipkit.shards.filter import FilterConfig, filter_dataset
from clipkit.shards.patterns import tar_paths
from clipkit.shards.shard_set import ShardSet
from clipkit.shards.summary import summarize
from clipkit.shards.verify import verify
from tests.conftest import WriteDataset, disk_of
from tests.datasets import everything
from tests.object_store import BUCKET, Fault, ObjectStore
from tests.serving import Route, Server, answer
from tests.tars import write_tar

ROOT = Path(__file__).parent.parent.parent
SHARDS = [sys.executable, "-m", "clipkit", "shards"]


@pytest.fixture
def uploaded(store: ObjectStore, small_dataset: Path, tmp_path: Path) -> str:
    address = f"s3://{BUCKET}/{tmp_path.name}"
    store.fs.put(str(small_dataset), f"{BUCKET}/{tmp_path.name}", recursive=True)
    return address


class Everywhere(dict[str, Route]):
    """One answer to every request, as of a server that wants a login first."""

    def get(self, path: str, default: Any = None) -> Route:
        return answer(b"<!doctype html><title>Log in</title>")


@pytest.mark.parametrize("command", [verify, ShardSet, summarize])
def test_a_server_that_has_a_page_for_everything(server: Server, command: Callable[[Any], object]) -> None:
    server.routes = Everywhere()
    words = (
        r"index\.parquet: expected a Parquet index, found: what begins with b'<!doctype .*the address right"
    )
    with pytest.raises(DatasetError, match=words):
        command(location(server.url("/set")))


def test_a_dataset_in_a_bucket_is_the_one_on_disk(uploaded: str, small_dataset: Path) -> None:
    local, remote = ShardSet(small_dataset), ShardSet(uploaded)
    assert (remote.names, remote.fingerprint) == (local.names, local.fingerprint)
    assert everything(remote) == everything(local)


@pytest.mark.slow
def test_loader_processes_read_from_a_bucket(uploaded: str, small_dataset: Path) -> None:
    program = """
import sys
from clipkit.shards import loader
from clipkit.shards.shard_set import ShardSet
from clipkit.shards.verify import verify
from tests.conftest import WriteDataset
from tests.shards import test_loader
if __name__ == "__main__":
    for source, workers in ((sys.argv[1], 0), (sys.argv[2], 2)):
        settings = dict(batch_size=100, stop=1000, transform=test_loader.transform, workers=workers)
        made = list(loader.batches(ShardSet(source), tokenize=test_loader.tokenize, **settings))
        print(len(made), [int(batch.images_BCHW.long().sum()) for batch in made])
"""
    # In a process of its own: the server that forks this one's loader processes knows no bucket.
    command = [sys.executable, "-c", program, str(small_dataset), uploaded]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    local, remote = done.stdout.splitlines()
    assert local == remote and local.startswith("10 [")


@pytest.mark.parametrize(
    "fault", ["500", "503", "short", "reset", "changed", pytest.param("late", marks=pytest.mark.slow)]
)
def test_what_may_pass_is_tried_again(
    store: ObjectStore, uploaded: str, small_dataset: Path, fault: str
) -> None:
    failed: set[str] = set()

    def once(method: str, path: str) -> str | None:
        is_first = method == "GET" and (path.partition("?")[0] not in failed or fault == "late")
        failed.add(path.partition("?")[0])
        return fault if is_first else None

    store.fault = once
    assert everything(ShardSet(uploaded)) == everything(ShardSet(small_dataset))
    assert any(path.endswith(".tar") for path in failed)


def test_what_stays_short_is_an_error_that_names_it(store: ObjectStore, uploaded: str) -> None:
    shard_set = ShardSet(uploaded)
    store.fault = lambda method, path: "short" if "000001.tar" in path and method == "GET" else None
    with pytest.raises(
        RemoteError, match=r"000001\.tar: expected to read it, found: .*; tried 3 times in \d+ s"
    ):
        shard_set.read(1, 0)
    assert shard_set.read(0, 0).key == "000000000"


def test_bytes_changed_on_the_way_are_noticed(store: ObjectStore, uploaded: str, small_dataset: Path) -> None:
    shard_set = ShardSet(uploaded)
    damaged = bytearray((small_dataset / "000000.tar").read_bytes())
    damaged[5000] ^= 1
    store.fs.pipe(f"{uploaded}/000000.tar", bytes(damaged))
    with pytest.raises(DatasetError, match=r"000000\.tar: expected .* found as many of SHA-256"):
        shard_set.read(0, 0)


def test_a_shard_missing_in_the_bucket_is_an_error_before_the_first_step(uploaded: str) -> None:
    (location(uploaded) / "000002.tar").unlink()
    with pytest.raises(DatasetError, match=r"000002\.tar: the index lists this shard, but it is missing"):
        ShardSet(uploaded)


def test_no_dataset_no_bucket_no_server_get_one_line(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DatasetError, match=f"{BUCKET}/nothing: expected a dataset directory"):
        ShardSet(f"s3://{BUCKET}/nothing")
    with pytest.raises(RemoteError, match=r"no-such-bucket/x/.*the bucket does not exist; is its name right"):
        ShardSet("s3://no-such-bucket/x")
    with pytest.raises(ConfigError, match=r"expected a path or an address of s3://.*found ftp://"):
        ShardSet("ftp://127.0.0.1/x")
    with pytest.raises(ConfigError, match="found a command; those are never run"):
        ShardSet("pipe:touch x")
    for address in ("s3://", "s3:///x", "https://", "https:///x"):
        with pytest.raises(ConfigError, match="expected the name of a bucket or server"):
            ShardSet(address)
    with pytest.raises(ConfigError, match="a name between any two slashes"):
        ShardSet(f"s3://{BUCKET}//x")
    for address in ("http://[::1/x", "https://host:99999/x"):
        with pytest.raises(ConfigError, match="expected an address, found: "):
            ShardSet(address)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost")
    with pytest.raises(ConfigError, match=r"AWS_ENDPOINT_URL: expected an address .* found 'localhost'"):
        ShardSet(f"s3://{BUCKET}/x")


def test_schemes_are_of_either_case_and_slashes_may_end_an_address(uploaded: str) -> None:
    assert len(ShardSet(uploaded.replace("s3", "S3") + "/")) == 2160


def test_the_cache_is_bounded_and_what_was_used_last_stays(uploaded: str, tmp_path: Path) -> None:
    shards = ShardSet(uploaded)
    sizes = [(location(uploaded) / name).stat().st_size for name in shards.names]
    cache = Cache(tmp_path / "bounded", max_bytes=sizes[0] + sizes[2])
    wanted = [Wanted(location(uploaded) / name, size) for name, size in zip(shards.names, sizes, strict=True)]
    descriptors = [cache.open(wanted[place]) for place in (0, 1, 1, 2)]
    names = {path.name.split("-", 2)[2] for path in cache.folder.iterdir()}
    assert names == {"000001.tar", "000002.tar"}
    assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= cache.max_bytes
    assert os.pread(descriptors[0], 9, 0) == b"000000000", "who has it open goes on"
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_filled_cache_may_be_read_only(tiny_disk: Path) -> None:
    def fetch(source: Path, target: Path, at_most: int) -> None:
        target.write_bytes(b"x")

    cache, wanted = Cache(tiny_disk / "cache", fetch=fetch), Wanted(Path("there.tar"), 1)
    cache.fill(wanted)
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    descriptor = cache.open(wanted)
    assert os.read(descriptor, 9) == b"x"
    os.close(descriptor)
    with pytest.raises(
        StorageError, match=r"expected a folder for copies of .*, found: Read-only file system"
    ):
        cache.open(Wanted(Path("other.tar"), 1))


def slow_tars(asked: threading.Event) -> Fault:
    def fault(method: str, path: str) -> str | None:
        if method != "GET" or not path.endswith(".tar"):
            return None
        asked.set()
        return "slow"

    return fault


def named(store: ObjectStore, source: Path, size: int, name: str) -> Wanted:
    """The same file under another name."""
    other = source.with_name(f"{name}.tar")
    store.fs.copy(str(source), str(other))
    return Wanted(other, size)


def test_what_others_download_meanwhile_counts(store: ObjectStore, uploaded: str, tmp_path: Path) -> None:
    source = location(uploaded) / "000000.tar"
    size = source.stat().st_size
    one, other = (
        Cache(tmp_path / "bounded", max_bytes=2 * size),
        Cache(tmp_path / "bounded", max_bytes=2 * size),
    )
    first, second, third, fourth = (named(store, source, size, name) for name in "abcd")
    for wanted in (first, second):
        one.fill(wanted)
    coming = threading.Event()
    store.fault = slow_tars(coming)
    slow = threading.Thread(target=one.fill, args=(third,))
    slow.start()
    assert coming.wait(60)
    store.fault = lambda method, path: None
    other.fill(fourth)
    assert len([path for path in one.folder.iterdir() if not path.name.startswith(".")]) == 1
    store.stopping.set()
    slow.join()
    assert len(list(one.folder.glob("*.tar"))) == 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_process_forked_during_a_download_waits_for_no_thread_of_its_parent(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def fetch(source: Path, target: Path, at_most: int) -> None:
        begun.set()
        assert go_on.wait(60)
        target.write_bytes(b"x")

    cache, wanted = Cache(tmp_path, fetch=fetch), Wanted(Path("there.tar"), 1)
    thread = threading.Thread(target=cache.fill, args=(wanted,))
    thread.start()
    assert begun.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(30)
        cache.open(wanted)
        os._exit(0)
    go_on.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_what_comes_ahead_takes_no_room_from_what_others_download(
    store: ObjectStore, uploaded: str, tmp_path: Path
) -> None:
    source = location(uploaded) / "000000.tar"
    size = source.stat().st_size
    one, other = (Cache(tmp_path / "bounded", max_bytes=size) for _ in range(2))
    first, second = (named(store, source, size, name) for name in "ab")
    coming = threading.Event()
    store.fault = slow_tars(coming)
    slow = threading.Thread(target=one.fill, args=(first,))
    slow.start()
    assert coming.wait(60)
    store.fault = lambda method, path: None
    other.fill(second)
    assert not list(one.folder.glob("*.tar"))
    os.close(other.open(second))  # what is read now does not wait
    store.stopping.set()
    slow.join()


@pytest.mark.slow
def test_a_cache_smaller_than_what_is_used_at_once_is_said(
    uploaded: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    largest = max(stat(uploaded, name) for name in ShardSet(uploaded).names)
    assert not caplog.records
    monkeypatch.setenv("CLIPKIT_CACHE_BYTES", str(largest))
    assert ShardSet(uploaded).read(0, 0).key == "000000000"
    assert [record.getMessage() for record in caplog.records] == [
        f"{uploaded}: a stream uses about 6.7 MB of its shards at a time, and the cache holds 3.1 MB: they "
        "will be downloaded again and again; set CLIPKIT_CACHE_BYTES to more"
    ]
    monkeypatch.setenv("CLIPKIT_CACHE_BYTES", str(largest - 1))
    with pytest.raises(
        StorageError, match=f"expected a cache that holds at least one file of {largest:,} bytes"
    ):
        ShardSet(uploaded)
    with pytest.raises(StorageError, match=r"000000\.tar: expected a cache that holds at least one file"):
        Cache().fill(Wanted(location(uploaded) / "000000.tar", largest))


def stat(folder: str, name: str) -> int:
    return (location(folder) / name).stat().st_size


def test_to_open_a_dataset_each_of_its_files_is_asked_for_once(store: ObjectStore, uploaded: str) -> None:
    store.requests.clear()
    ShardSet(uploaded)
    asked = Counter(path.partition("?")[0].rpartition("/")[2] for _, path in store.requests)
    assert asked == dict.fromkeys(["index.parquet", "dataset.json", *files_of_shards(3)], 1)


def files_of_shards(count: int) -> list[str]:
    return [f"{number:06d}.{kind}" for number in range(count) for kind in ("tar", "parquet")]


def test_foreign_tars_are_indexed_several_at_a_time(store: ObjectStore, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "one.tar", [{"__key__": "a", "jpg": b"\xff\xd8\xff", "txt": "b"}])
    for number in range(8):
        store.fs.pipe(f"{BUCKET}/{tmp_path.name}/{number}.tar", tar.read_bytes())
    together = threading.Barrier(8)

    def fault(method: str, path: str) -> str | None:
        if method == "GET" and path.endswith(".tar"):
            together.wait(30)
        return None

    store.fault = fault
    shard_set = ShardSet(f"s3://{BUCKET}/{tmp_path.name}/{{0..7}}.tar")
    assert shard_set.names == [f"{number}.tar" for number in range(8)] and not together.broken


@pytest.mark.slow
def test_verify_lists_the_bucket_for_the_sizes_of_shards(
    store: ObjectStore, write_dataset: WriteDataset, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "dataset", 20_000, 1000)
    store.fs.put(str(tmp_path / "dataset"), f"{BUCKET}/{tmp_path.name}", recursive=True)
    store.requests.clear()
    assert verify(location(f"s3://{BUCKET}/{tmp_path.name}")).ok
    assert not [path for method, path in store.requests if method == "HEAD" and path.endswith(".tar")]


def test_a_copy_in_the_cache_that_was_damaged_is_had_anew(
    uploaded: str, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    everything(ShardSet(uploaded))
    copies = [path for path in (tmp_path / "cache" / "files").iterdir() if path.suffix == ".tar"]
    assert len(copies) == 3
    for copy in copies:
        content = bytearray(copy.read_bytes())
        content[5000] ^= 1
        copy.write_bytes(content)
    result = filter_dataset(location(uploaded), tmp_path / "out", FilterConfig(skip_broken=True))
    assert result.lost == {}
    assert everything(ShardSet(tmp_path / "out")) == everything(ShardSet(small_dataset))


def test_a_copy_that_was_written_to_is_not_read(
    store: ObjectStore, uploaded: str, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    for name in ("000000.tar", "000001.tar", "000002.tar"):
        store.fs.copy(f"{uploaded}/{name}", f"{uploaded}-tars/{name}")
    for source, like in ((uploaded, small_dataset), (f"{uploaded}-tars/{{000000..000002}}.tar", None)):
        before = everything(ShardSet(source))
        copies = list((tmp_path / "cache" / "files").glob("*.tar"))
        for copy in copies:
            content = bytearray(copy.read_bytes())
            content[5000] ^= 1
            with copy.open("r+b") as file:
                file.write(content)
        assert everything(ShardSet(source)) == before
        assert like is None or before == everything(ShardSet(like))
        for copy in copies:
            copy.unlink()


def test_copies_that_came_from_elsewhere_are_known_by_their_hash(
    store: ObjectStore, uploaded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    before = everything(ShardSet(uploaded))
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "other"))
    (tmp_path / "other" / "files").mkdir(parents=True)
    for copy in (tmp_path / "cache" / "files").iterdir():
        (tmp_path / "other" / "files" / copy.name).write_bytes(copy.read_bytes())
    store.fault = lambda method, path: "403" if method == "GET" and path.endswith(".tar") else None
    assert everything(ShardSet(uploaded)) == before


def test_a_tar_that_is_replaced_before_it_is_read_is_not_taken_for_itself(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    members = [{"__key__": f"{number:03}", "jpg": b"%03d" % number, "txt": "text"} for number in range(9)]
    place = f"{BUCKET}/{tmp_path.name}.tar"
    contents = [
        write_tar(tmp_path / "a.tar", each).read_bytes() for each in (members, list(reversed(members)))
    ]
    assert len(contents[0]) == len(contents[1])
    store.fs.pipe(place, contents[0])
    shards = ShardSet(f"s3://{place}")
    for copy in (tmp_path / "cache" / "files").iterdir():  # as another program makes room
        copy.unlink()
    store.fs.pipe(place, contents[1])
    shards.close()
    with pytest.raises(DatasetError, match=r"expected the file as it was .*, found it changed"):
        shards.read(0, 0)
    assert ShardSet(f"s3://{place}").read(0, 0).image == b"008"
    store.fs.pipe(place, contents[0])
    assert ShardSet(f"s3://{place}").read(0, 0).image == b"000"


def test_a_cache_that_cannot_be_is_one_line(uploaded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPKIT_CACHE", "/dev/null/x")
    with pytest.raises(
        StorageError, match=r"expected a folder for copies .* Not a directory; set CLIPKIT_CACHE"
    ):
        ShardSet(uploaded).read(0, 0)


@pytest.mark.slow
def test_a_process_ends_while_shards_are_on_their_way(store: ObjectStore, uploaded: str) -> None:
    asked = threading.Event()
    store.fault = slow_tars(asked)
    code = (
        "import sys; from clipkit.shards.shard_set import ShardSet; shards = ShardSet(sys.argv[1]); "
        "shards.prepare([0, 1, 2]); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, uploaded]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None and asked.wait(60)
        process.stdin.close()
        assert process.wait(15) == 0, "a download takes 20 s here"


def test_a_full_disk_under_the_cache_is_one_line(
    uploaded: str, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPKIT_CACHE", str(tiny_disk))
    shard_set = ShardSet(uploaded)
    with pytest.raises(StorageError, match="found the disk full; make room, or set CLIPKIT_CACHE"):
        everything(shard_set)
    shard_set.close()


@pytest.mark.slow
def test_a_full_disk_under_temporary_files_says_nothing_of_a_shard(uploaded: str, tmp_path: Path) -> None:
    with disk_of("1m", tmp_path / "disk") as disk:
        command = [sys.executable, "-m", "clipkit", "shards", "verify", uploaded]
        environment = os.environ | {"TMPDIR": str(disk)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert not list(disk.iterdir())
    assert done.returncode == 1 and done.stdout == ""
    line = done.stderr.splitlines()[-1]
    assert re.match(
        rf"clipkit: {disk}: expected room for a copy of {uploaded}/\d+\.(tar|parquet), found the disk", line
    )
    assert line.endswith("full; make room, or set TMPDIR to a folder on a larger disk")


def test_a_dataset_on_a_web_server(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    with Server().running() as server:
        for path in small_dataset.iterdir():
            if path.is_file():
                serve(server, f"/ds/{path.name}", path.read_bytes())
        assert everything(ShardSet(server.url("/ds"))) == everything(ShardSet(small_dataset))
        with pytest.raises(DatasetError, match="expected a dataset directory"):
            ShardSet(server.url("/nothing"))


def test_foreign_tars_on_a_web_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    with Server().running() as server:
        for number in range(3):
            samples = [
                {"__key__": f"s{number}{row}", "jpg": b"\xff\xd8\xff" + bytes([row]), "txt": f"{row}"}
                for row in range(4)
            ]
            tar = write_tar(tmp_path / f"{number}.tar", samples)
            serve(server, f"/{number}.tar", tar.read_bytes())
        shard_set = ShardSet(server.url("/{0..2}.tar"))
        assert shard_set.sizes.tolist() == [4, 4, 4]
        assert shard_set.read(2, 1) == ("s21", b"\xff\xd8\xff\x01", "1")
        with pytest.raises(DatasetError, match=r"/3\.tar: expected a tar, found no such file"):
            ShardSet(server.url("/{0..3}.tar"))
        several = r"/3\.tar, .*/4\.tar, .*/5\.tar and 2 more: expected 8 tars, found 5 of them missing"
        with pytest.raises(DatasetError, match=several):
            ShardSet(server.url("/{0..7}.tar"))


def test_names_that_look_like_patterns(store: ObjectStore, tmp_path: Path) -> None:
    folder = f"s3://{BUCKET}/{tmp_path.name}a?b"
    tar = write_tar(tmp_path / "one.tar", [{"__key__": "a", "jpg": b"\xff\xd8\xff", "txt": "b"}])
    for name in ("x[1].tar", "y.tar"):
        store.fs.pipe(f"{folder}/{name}", tar.read_bytes())
    assert [path.name for path in tar_paths([folder])] == ["x[1].tar", "y.tar"]
    assert [path.name for path in tar_paths([f"{folder}/x[1].tar"])] == ["x[1].tar"]
    for pattern in (f"{folder}/*.tar", f"s3://{BUCKET[:-1]}?/x.tar"):
        with pytest.raises(DatasetError, match="only behind the last slash of an address"):
            tar_paths([pattern])


def test_many_shards_are_listed_not_asked_for_one_by_one(store: ObjectStore, tmp_path: Path) -> None:
    folder = location(f"s3://{BUCKET}/{tmp_path.name}")
    tar = write_tar(tmp_path / "one.tar", [{"__key__": "a", "jpg": b"\xff\xd8\xff", "txt": "b"}])
    for number in range(40):
        store.fs.pipe(f"{folder}/{number:02d}.tar", tar.read_bytes())
    assert len(ShardSet(f"{folder}/{{00..39}}.tar")) == 40
    store.requests.clear()
    assert len(ShardSet(f"{folder}/{{00..39}}.tar")) == 40, "of copies and headers kept"
    assert len(store.requests) < 10
    with pytest.raises(DatasetError, match=r"40\.tar: expected a tar, found no such file"):
        ShardSet(f"{folder}/{{00..40}}.tar")


def test_a_web_server_that_refuses_or_fails_has_not_lost_the_file(server: Server) -> None:
    server.add("/x.tar", answer(b"", 403))
    with pytest.raises(RefusedError, match=r"/x\.tar: expected to read it, found: HTTP 403 \(Forbidden\);"):
        ShardSet(server.url("/x.tar"))


def serve(server: Server, path: str, body: bytes) -> None:
    server.add(path, answer(body))


def told(*words: str, code: int = 0) -> dict[str, Any]:
    done = subprocess.run([*SHARDS, *words, "--json"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return cast("dict[str, Any]", json.loads(done.stdout))


def test_the_tools_read_and_write_buckets(uploaded: str, small_dataset: Path, tmp_path: Path) -> None:
    where = ("--where", "source_row % 2 = 0", "--out")
    made = [told("filter", source, *where, out) for source, out in (
        (uploaded, f"{uploaded}-even"), (str(small_dataset), str(tmp_path / "even"))
    )]  # fmt: skip
    assert made[0]["samples"] == made[1]["samples"] == 2160
    assert everything(ShardSet(f"{uploaded}-even")) == everything(ShardSet(tmp_path / "even"))
    assert told("verify", f"{uploaded}-even")["ok"] is True


@pytest.mark.slow
def test_the_other_tools_too(uploaded: str, small_dataset: Path) -> None:
    assert told("info", uploaded)["samples"] == 2160
    assert told("verify", uploaded, "--decode")["ok"] is True
    assert told("show", uploaded, "000001007")["caption"] == ShardSet(small_dataset).read(1, 7).caption
    told("filter", uploaded, "--where", "source_row % 2 = 0", "--out", f"{uploaded}-some")
    told("dedup", uploaded, "--against", f"{uploaded}-some", "--out", f"{uploaded}-others")
    assert (len(ShardSet(f"{uploaded}-some")), len(ShardSet(f"{uploaded}-others"))) == (960, 1200)


@pytest.mark.slow
def test_a_split_of_a_bucket_goes_into_it_and_the_stream_from_it_is_measured(
    uploaded: str, small_dataset: Path, tmp_path: Path
) -> None:
    sizes = []
    for source, out in ((uploaded, f"{uploaded}-parts"), (str(small_dataset), str(tmp_path / "parts"))):
        made = told("filter", source, "--split", "10%", "--out", out)
        assert [each["out"] for each in made["written"]] == [f"{out}/train", f"{out}/val"]
        sizes.append([each["samples"] for each in made["written"]])
    assert sizes[0] == sizes[1] and sum(sizes[0]) == 2160 and sizes[0][1] > 100
    for part in ("train", "val"):
        assert everything(ShardSet(f"{uploaded}-parts/{part}")) == everything(
            ShardSet(tmp_path / "parts" / part)
        )
    words = ("--batch-size", "8", "--steps", "2", "--image-size", "16", "--workers", "1")
    figures = told("bench", uploaded, *words)
    assert figures["whole"] > 0 and all(rate > 0 for rate in figures["steps"].values())
    assert figures["bottleneck"] in {*figures["steps"], "workers"} and figures["advice"]


@pytest.mark.slow
def test_single_files_go_to_buckets_too(uploaded: str, small_dataset: Path, tmp_path: Path) -> None:
    page, picture, pairs = (f"{uploaded}-{name}" for name in ("page", "7.jpg", "pairs.parquet"))
    for _ in range(2):  # what is there of the same kind is replaced
        assert told("show", uploaded, "--random", "3", "--out", page)["out"] == page
        told("show", uploaded, "7", "--out", picture)
        told("dedup", uploaded, "--against", str(small_dataset), "--list", pairs)
    assert location(picture).read_bytes() == ShardSet(small_dataset).read(0, 7).image
    assert location(page).read_bytes().startswith(b"<!doctype html>")
    with downloaded(location(pairs)) as copy:
        assert len(pq.read_table(copy)) > 0
    for words in (("show", uploaded, "7", "--out", page), ("dedup", uploaded, "--list", page)):
        done = subprocess.run([*SHARDS, *words], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 1 and f"{page}: expected a new" in done.stderr, done.stderr


@pytest.mark.slow
def test_what_cannot_be_had_now_is_no_broken_shard(
    store: ObjectStore, uploaded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [*SHARDS, "filter", uploaded, "--skip-broken", "--out"]
    store.fault = lambda method, path: "500" if "000001.tar" in path and method == "GET" else None
    done = subprocess.run([*broken, str(tmp_path / "out")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "000001.tar" in done.stderr.splitlines()[-1], done.stderr
    monkeypatch.setenv("CLIPKIT_CACHE", "/dev/null/x")
    done = subprocess.run([*broken, str(tmp_path / "out")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "set CLIPKIT_CACHE" in done.stderr.splitlines()[-1], done.stderr
    assert not (tmp_path / "out").exists()


def test_a_page_is_no_list_of_what_the_store_refuses(
    store: ObjectStore, uploaded: str, tmp_path: Path
) -> None:
    store.fault = lambda method, path: "403" if ".tar" in path and method == "GET" else None
    command = [*SHARDS, "show", uploaded, "--random", "3", "--out", str(tmp_path / "page.html")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and ".tar" in done.stderr.splitlines()[-1], done.stderr
    assert not (tmp_path / "page.html").exists()


def test_verify_finds_what_is_wrong_in_a_bucket(
    store: ObjectStore, uploaded: str, small_dataset: Path, tmp_path: Path
) -> None:
    damaged = bytearray((small_dataset / "000001.tar").read_bytes())
    damaged[600] ^= 1
    store.fs.pipe(f"{uploaded}/000001.tar", bytes(damaged))
    found = told("verify", uploaded, code=1)
    assert found["ok"] is False and {fault["file"] for fault in found["faults"]} == {"000001.tar"}
    result = filter_dataset(location(uploaded), tmp_path / "whole", FilterConfig(skip_broken=True))
    assert result.written[0].left_out["broken"] == 1 and "000001000" in result.lost["000001.tar"]
