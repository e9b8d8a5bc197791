"""What is tried again behind an address and what is not, how it ends, and how much is taken: real servers."""

import math
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from clipkit.errors import ConfigError, StorageError
from clipkit.locations import location, read_range, remove_tree
from clipkit.remote import RefusedError, RemoteError, TooLargeError
from clipkit.remote_path import RemotePath
from clipkit.shards.dataset import read_dataset
from clipkit.shards.shard_set import ShardSet
from tests.ingest.test_tls import certify, found_authority
from tests.object_store import BUCKET, ObjectStore
from tests.serving import Route, Server, answer, raw
from tests.test_cli import assert_one_line, clipkit

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("clipkit.remote._PAUSES", (0.01, 0.01))
    monkeypatch.setattr("clipkit.remote._said", -math.inf)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def there(server: Server, *routes: Route) -> RemotePath:
    """A file that answers by each of the routes in turn, then by the last one."""
    left = list(routes)
    return RemotePath.parse(
        server.add("/file", lambda request: (left.pop(0) if left[1:] else left[0])(request))
    )


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(server: Server, status: int) -> None:
    path = there(server, answer(b"", status), answer(b"", status), answer(b"content"))
    assert path.read_bytes() == b"content" and server.hits["/file"] == 3


@pytest.mark.parametrize("status", [400, 401, 403, 405, 416])
def test_what_will_not_pass_is_asked_for_once(server: Server, status: int) -> None:
    with pytest.raises(RemoteError, match=rf"/file: expected to read it, found: HTTP {status} \("):
        there(server, answer(b"", status)).read_bytes()
    assert server.hits["/file"] == 1


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_no_error_of_the_server(server: Server, status: int) -> None:
    path = there(server, answer(b"", status))
    with pytest.raises(FileNotFoundError):
        path.read_bytes()
    assert server.hits["/file"] == 1 and not path.exists()


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_server_that_fails_has_not_lost_what_is_asked_for(server: Server, status: int) -> None:
    path = there(server, answer(b"", status))
    server.add("/file/index.parquet", answer(b"", status))
    for ask in (path.exists, path.is_file, path.info, path.stat, lambda: ShardSet(str(path))):
        with pytest.raises(RemoteError, match=f"HTTP {status}"):
            ask()


def test_what_stays_wrong_is_given_up_and_said(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        RemoteError, match=r"HTTP 503 \(.*\); tried 3 times in \d+ s: run the same command again"
    ):
        there(server, answer(b"", 503)).read_bytes()
    assert server.hits["/file"] == 3
    assert "/file: HTTP 503 (Service Unavailable); trying again for up to 15 s" in capfd.readouterr().err


def test_redirects_without_end_are_followed_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    around = answer(b"", 307, {"Location": "/file"})
    for path in (there(server, around), aside(server, monkeypatch, "/bucket/file", around)):
        with pytest.raises(RemoteError, match="found: redirects without end; is the address right"):
            path.read_bytes()
    assert server.hits["/file"] <= 22


def aside(server: Server, monkeypatch: pytest.MonkeyPatch, name: str, route: Route) -> RemotePath:
    """A file of that name in a bucket of a store that is this server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url(""))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("CLIPKIT_S3_ANONYMOUS", "1")
    server.add(name, route)
    return RemotePath.parse(f"s3:/{name}")


def endless(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(bytes(100_000))


def long_one(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(10**15))
    request.end_headers()
    request.wfile.write(b"x")
    request.close_connection = True


@pytest.mark.parametrize("route", [endless, long_one, answer(bytes(1_000_001))])
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_more_than_is_taken_ends_in_one_line(
    server: Server, monkeypatch: pytest.MonkeyPatch, route: Route, scheme: str
) -> None:
    path = there(server, route) if scheme == "http" else aside(server, monkeypatch, "/bucket/file", route)
    with pytest.raises(TooLargeError, match="/file: expected at most 1,000,000 bytes, found more"):
        path.read_bytes(1_000_000)
    assert sum(server.hits.values()) == 1


@pytest.mark.parametrize("status", [200, 404, 503])
def test_what_a_store_tells_is_bounded(server: Server, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    def endless_words(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.end_headers()
        while True:
            request.wfile.write(b"<Error>" * 10_000)

    list_of = "/bucket?list-type=2&prefix=folder%2F&delimiter=%2F&encoding-type=url"
    folder = aside(server, monkeypatch, "/bucket/folder", endless_words)
    server.add(list_of, endless_words)
    for ask in (folder.read_bytes, folder.entries) if status >= 300 else (folder.entries,):
        with pytest.raises(TooLargeError, match="expected at most 16,777,216 bytes of an answer"):
            ask()
    assert server.hits[list_of] == 1, server.hits


def ranged(request: BaseHTTPRequestHandler) -> None:
    first, last = (int(end) for end in request.headers["Range"].removeprefix("bytes=").split("-"))
    headers = {"Content-Range": f"bytes {first}-{last}/{len(CONTENT)}"}
    answer(CONTENT[first : last + 1], 206, headers)(request)


CONTENT = bytes(range(256)) * 1000


@pytest.mark.parametrize("route", [answer(CONTENT), ranged])
@pytest.mark.parametrize(("start", "length"), [(0, 10), (65530, 20), (200_003, 1000), (255_990, 10)])
def test_a_byte_range_is_the_same_of_a_server_that_gives_whole_files(
    server: Server, route: Route, start: int, length: int
) -> None:
    path = there(server, answer(b"", 503), route)
    assert path.read_range(start, length) == CONTENT[start : start + length]


@pytest.mark.parametrize("told", [{}, {"Content-Range": "bytes 0-9/256000"}, {"Content-Range": "none"}])
def test_bytes_of_another_range_are_not_taken(server: Server, told: dict[str, str]) -> None:
    path = there(server, answer(CONTENT[:10], 206, told), ranged)
    assert path.read_range(300, 10) == CONTENT[300:310]


@pytest.mark.parametrize("start", [100, 300])
def test_a_store_that_gives_the_whole_object_or_another_range(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    """Some that call themselves S3 do not know ranges, or have a cache before them that does not."""
    store.fs.pipe(f"{BUCKET}/ranges", CONTENT)
    answers = iter([start, 300])
    monkeypatch.setattr(store, "range_of", lambda asked: f"bytes={next(answers)}-309")
    assert read_range(location(f"s3://{BUCKET}/ranges"), 300, 10) == CONTENT[300:310]
    monkeypatch.setattr(store, "range_of", lambda asked: None)
    assert read_range(location(f"s3://{BUCKET}/ranges"), 300, 10) == CONTENT[300:310]
    assert read_range(location(f"s3://{BUCKET}/ranges"), 255_990, 100) == CONTENT[255_990:]


def test_a_byte_range_ends_with_its_file_and_without_it(server: Server) -> None:
    assert there(server, answer(CONTENT)).read_range(255_990, 100) == CONTENT[255_990:]
    assert there(server, endless).read_range(1_000_000, 100) == bytes(100)
    with pytest.raises(FileNotFoundError):
        there(server, answer(b"", 404)).read_range(0, 10)


def test_what_says_what_a_dataset_is_is_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipkit.shards.dataset.MAX_JSON_BYTES", 1000)
    for name in ("index.parquet", "dataset.json"):
        server.add(f"/endless/{name}", endless)
    with pytest.raises(TooLargeError, match=r"dataset\.json: expected at most 1,000 bytes, found more"):
        read_dataset(location(server.url("/endless")))
    monkeypatch.setattr("clipkit.locations.read_bytes.__defaults__", (1000,))
    with pytest.raises(TooLargeError, match=r"index\.parquet: expected at most 1,000 bytes, found more"):
        ShardSet(server.url("/endless"))


def test_bytes_that_drip_are_as_good_as_none(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipkit.remote.PATIENCE", 0.5)

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not server.stopping.wait(0.05):
            request.wfile.write(b"x")

    with pytest.raises(RemoteError, match=r"found: \d+ bytes in \d+ s; tried 1 times"):
        there(server, drip).read_bytes()


def test_what_comes_late_but_whole_is_taken(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipkit.remote.PATIENCE", 0.5)

    def late(request: BaseHTTPRequestHandler) -> None:
        server.stopping.wait(0.6)
        answer(b"late")(request)

    assert there(server, late).read_bytes() == b"late"


STOPPED = """
import sys
from clipkit import remote
from clipkit.locations import location
remote.PATIENCE = 3
sys.stdout.buffer.write(location(sys.argv[1]).read_bytes())
"""


@pytest.mark.parametrize("is_silent", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_time_in_which_the_process_was_stopped_is_none(
    server: Server, tmp_path: Path, is_silent: bool
) -> None:
    was_stopped = threading.Event()

    def in_pieces(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "3000")
        request.end_headers()
        request.wfile.write(b"a" * 1000)
        if is_silent:
            server.stopping.wait()
            return
        was_stopped.wait(60)
        request.wfile.write(b"b" * 1000)
        server.stopping.wait(0.5)
        request.wfile.write(b"c" * 1000)

    path = there(server, in_pieces, answer(bytes(3000)))
    command = [sys.executable, "-c", STOPPED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        while not server.hits["/file"]:
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(signal.SIGSTOP)
        time.sleep(6.5)
        was_stopped.set()
        process.send_signal(signal.SIGCONT)
        printed, _ = process.communicate(timeout=60)
    assert (process.returncode, len(printed)) == (0, 3000)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_silence_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setattr("clipkit.remote._PAUSES", (0.5, 1.0, 2.0, 4.0, 4.0))
    silent = server.silence
    path = there(server, silent) if scheme == "http" else aside(server, monkeypatch, "/bucket/file", silent)
    with pytest.raises(RemoteError, match="tried 2 times"):
        path.read_bytes()


@pytest.mark.parametrize(
    "garbage", [b"\x1b[31m\x00\xff garbage\r\n\r\n", b"HTTP/1.1 999 \x1b[31m\r\n\r\n", b""]
)
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_what_is_no_answer_is_one_line_that_steers_no_terminal(
    server: Server, monkeypatch: pytest.MonkeyPatch, garbage: bytes, scheme: str
) -> None:
    path = (
        there(server, raw(garbage)) if scheme == "http" else aside(server, monkeypatch, "/b/f", raw(garbage))
    )
    for ask in (path.read_bytes, path.exists):
        with pytest.raises(RemoteError) as raised:
            ask()
        assert str(raised.value).isprintable(), str(raised.value)


READ = """
import sys
from clipkit.shards.shard_set import ShardSet
from tests.datasets import everything
print(everything(ShardSet(sys.argv[1])) == everything(ShardSet(sys.argv[2])))
"""


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes the certificates")
def test_a_web_server_is_believed_if_its_authority_is(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a process of its own: the authorities are read once."""
    for name in ("known", "unknown"):
        found_authority(tmp_path, name)
    with Server(certify(tmp_path, "good", "localhost", 30, "known")).running() as server:
        for path in tiny_dataset.glob("*.*"):
            server.add(f"/ds/{path.name}", answer(path.read_bytes()))
        address = server.url("/ds").replace("http://127.0.0.1", "https://localhost")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "known.pem"))
        read = [sys.executable, "-c", READ, address, str(tiny_dataset)]
        done = subprocess.run(read, capture_output=True, text=True, check=False)
        assert done.stdout == "True\n", done.stderr
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "unknown.pem"))
        server.hits.clear()
        refused = clipkit("shards", "verify", address)
        assert_one_line(refused, f"{address}/index.parquet: expected to read it", "certificate verify failed")
        assert not server.hits, "nothing is asked of it"


def test_nobody_listens_or_knows_the_name() -> None:
    with pytest.raises(RemoteError, match=r"127\.0\.0\.1:1 .*; tried 3 times .* is the address right"):
        RemotePath.parse("http://127.0.0.1:1/x").read_bytes()
    with pytest.raises(
        RemoteError, match=r"no-such-host\.invalid.*; is the address right, and the network up"
    ):
        RemotePath.parse("http://no-such-host.invalid/x").read_bytes()


def test_without_any_keys_what_is_public_is_read(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.fs.pipe(f"{BUCKET}/a/file", b"content", ACL="public-read")
    path = RemotePath.parse(f"s3://{BUCKET}/a/file")
    assert path.read_bytes() == b"content" and store.signed == [True]
    monkeypatch.setenv("CLIPKIT_S3_ANONYMOUS", "1")
    assert path.read_bytes() == b"content" and store.signed == [True, False]
    monkeypatch.delenv("CLIPKIT_S3_ANONYMOUS")
    without_keys(monkeypatch, tmp_path)
    assert path.read_bytes() == b"content" and store.signed == [True, False, False]
    monkeypatch.setenv("CLIPKIT_S3_ANONYMOUS", "yes")
    with pytest.raises(ConfigError, match="CLIPKIT_S3_ANONYMOUS: expected 1 or 0, found 'yes'"):
        path.read_bytes()


def test_without_any_keys_what_is_private_is_refused(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.fs.pipe(f"{BUCKET}/a/file", b"content")
    path = RemotePath.parse(f"s3://{BUCKET}/a/file")
    assert path.read_bytes() == b"content"
    without_keys(monkeypatch, tmp_path)
    with pytest.raises(RefusedError, match=r"found: HTTP 403 .* no keys were found"):
        path.read_bytes()


def without_keys(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(home / "nothing"))


def test_a_bucket_that_may_only_be_read_is_one_line(store: ObjectStore, tmp_path: Path) -> None:
    store.fault = lambda method, path: "403" if method in ("PUT", "POST", "DELETE") else None
    (tmp_path / "file").write_bytes(b"content")
    path = RemotePath.parse(f"s3://{BUCKET}/a/new")
    with pytest.raises(RefusedError, match=r"/new: expected to write it, found: HTTP 403 \(AccessDenied: "):
        path.upload(tmp_path / "file")
    with pytest.raises(RefusedError, match=r"/new: expected to remove it, found: HTTP 403"):
        path.unlink()
    assert sum(method == "PUT" for method, _ in store.requests) == 1


def test_an_upload_is_tried_again_and_whole(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content" * 1000)
    faults = ["500", "503"]
    store.fault = lambda method, path: faults.pop() if method == "PUT" and faults else None
    RemotePath.parse(f"s3://{BUCKET}/a/again").upload(tmp_path / "file")
    assert store.fs.cat(f"{BUCKET}/a/again") == b"content" * 1000 and not faults


def test_a_long_upload_that_fails_at_its_end_is_tried_again(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipkit.remote._COUNTED", 0.1)
    monkeypatch.setattr("clipkit.remote.PATIENCE", 0.5)
    (tmp_path / "file").write_bytes(b"content")
    faults = ["500", "503"]

    def late(method: str, path: str) -> str | None:
        if method != "PUT" or not faults:
            return None
        time.sleep(1)
        return faults.pop()

    store.fault = late
    RemotePath.parse(f"s3://{BUCKET}/a/late").upload(tmp_path / "file")
    assert store.fs.cat(f"{BUCKET}/a/late") == b"content" and not faults


def test_a_path_is_as_those_of_this_machine_are() -> None:
    path = RemotePath.parse("S3://bucket/a/000001.tar/")
    assert str(path) == "s3://bucket/a/000001.tar" and [*map(str, path.parents)] == [
        "s3://bucket/a",
        "s3://bucket",
    ]
    assert (path.name, path.stem, path.suffix) == ("000001.tar", "000001", ".tar")
    assert path.with_suffix(".parquet") == path.with_name("000001.parquet") == path.parent / "000001.parquet"
    assert path.relative_to(path.parent.parent).as_posix() == "a/000001.tar"


def test_what_is_asked_for_while_an_error_is_handled_is_judged_by_itself(store: ObjectStore) -> None:
    store.fault = lambda method, path: "403" if path.endswith("/refused") else None
    folder = RemotePath.parse(f"s3://{BUCKET}/nothing")
    try:
        (folder / "refused").read_bytes()
    except RefusedError:
        assert not (folder / "absent").exists()
        with pytest.raises(FileNotFoundError):
            (folder / "absent").read_bytes()
    else:
        pytest.fail("expected to be refused")


def test_what_is_removed_is_of_that_very_name(store: ObjectStore) -> None:
    names = ["data/parts2", "data/parts", "data1/parts", "data[1]/parts", "data?/parts", "*/parts"]
    store.fs.pipe({f"{BUCKET}/named/{name}/below/a": b"" for name in names})
    while names[1:]:
        remove_tree(location(f"s3://{BUCKET}/named/{names.pop()}"))
        store.fs.invalidate_cache()
        found = store.fs.find(f"{BUCKET}/named")
        assert sorted(found) == sorted(f"{BUCKET}/named/{name}/below/a" for name in names)


def test_a_place_for_copies_that_is_gone_is_not_a_file_that_is_not_there(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = there(server, answer(b"content"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    monkeypatch.setattr("clipkit.scratch._own", None)
    with pytest.raises(StorageError, match=r"gone/.*: expected a place for a copy of http.*/file, found no"):
        path.read_bytes()
