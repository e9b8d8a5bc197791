import hashlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from clipkit.downloads import Patience, Wanted, download
from clipkit.errors import DownloadError
from tests.ingest.test_tls import certify, found_authority
from tests.serving import Route, Server, answer, raw

BODY = random.Random(0).randbytes(3_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
QUICK = Patience(connect=20, silent=20, pause=0.01, tries=3)


class Ranged:
    """Serves a body as a server of files does; each request may be cut after so many bytes."""

    def __init__(self, body: bytes = BODY, mark: str = '"1"', ranges: bool = True):
        self.body, self.mark, self.ranges = body, mark, ranges
        self.cuts: list[int] = []
        self.seen: list[dict[str, str]] = []

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        self.seen.append(dict(request.headers))
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        first = int(asked[1]) if asked and self.ranges else 0
        if request.headers.get("If-Range", self.mark) != self.mark:
            first = 0
        if first >= len(self.body):
            answer(b"", status=416)(request)
            return
        request.send_response(206 if first else 200)
        if first:
            request.send_header("Content-Range", f"bytes {first}-{len(self.body) - 1}/{len(self.body)}")
        request.send_header("Content-Length", str(len(self.body) - first))
        request.send_header("ETag", self.mark)
        request.end_headers()
        cut = self.cuts.pop(0) if self.cuts else len(self.body)
        request.wfile.write(self.body[first : first + cut])
        request.close_connection = True

    @property
    def starts(self) -> list[str]:
        return [each.get("Range", "whole") for each in self.seen]


def wanted(url: str, sha256: str = SHA256, largest: int = len(BODY)) -> Wanted:
    return Wanted(url, sha256, largest)


def fails(call: Callable[[], object], *words: str) -> str:
    with pytest.raises(DownloadError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said
    for word in words:
        assert word in said
    return said


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_fetched_once_and_checked_again_each_time(server: Server, tmp_path: Path) -> None:
    url, path = server.add("/x.pt", answer(BODY)), tmp_path / "a" / "b" / "x.pt"
    assert download(wanted(url), path, QUICK) == path
    assert path.read_bytes() == BODY
    assert left(path.parent) == ["x.pt"]
    download(wanted(url), path, QUICK)
    assert server.hits["/x.pt"] == 1


def test_a_right_file_in_a_folder_that_cannot_be_written_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(BODY)
    tmp_path.chmod(0o500)
    assert download(wanted("http://127.0.0.1:1/x.pt"), path, QUICK) == path


def test_other_bytes_are_replaced_with_a_word(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(BODY[:-1])
    download(wanted(server.add("/x.pt", answer(BODY))), path, QUICK)
    assert path.read_bytes() == BODY
    assert f"{path} has other bytes than it should" in capsys.readouterr().err


def test_other_bytes_stay_when_nothing_better_comes(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(b"mine")
    fails(lambda: download(wanted(server.url("/x.pt")), path, QUICK), "HTTP 404", f"put it at {path}")
    assert path.read_bytes() == b"mine"


def test_a_folder_in_its_place_is_left_alone(server: Server, tmp_path: Path) -> None:
    fails(lambda: download(wanted(server.url("/x")), tmp_path, QUICK), "is to be a file", "move it away")


def test_cut_connections_are_gone_on_from(server: Server, tmp_path: Path) -> None:
    route = Ranged()
    route.cuts = [1_200_000, 10, 1_500_000]
    path = tmp_path / "x.pt"
    download(wanted(server.add("/x.pt", route)), path, QUICK)
    assert path.read_bytes() == BODY
    assert route.starts == ["whole", "bytes=1200000-", "bytes=1200010-", "bytes=2700010-"]
    assert [each.get("If-Range") for each in route.seen] == [None, *['"1"'] * 3]
    assert left(tmp_path) == ["x.pt"]


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    route = Ranged(ranges=False)
    route.cuts = [1_000]
    download(wanted(server.add("/x.pt", route)), tmp_path / "x.pt", QUICK)
    assert (tmp_path / "x.pt").read_bytes() == BODY


def test_a_server_that_gives_much_and_takes_it_back_is_given_up(server: Server, tmp_path: Path) -> None:
    files = Ranged()

    def in_turn(request: BaseHTTPRequestHandler) -> None:
        files.cuts[:] = [2_000_000]
        if "Range" in request.headers:
            files.seen.append(dict(request.headers))
            answer(b"", status=416)(request)
        elif len(files.seen) > 40:  # for the test to end, should it be tried for ever
            answer(b"", status=404)(request)
        else:
            files(request)

    fails(lambda: download(wanted(server.add("/x.pt", in_turn)), tmp_path / "x.pt", QUICK), "IncompleteRead")
    assert len(files.seen) <= 2 * QUICK.tries


def test_a_file_that_changes_in_between_is_begun_anew(server: Server, tmp_path: Path) -> None:
    route = Ranged(bytes(len(BODY)), mark='"old"')
    route.cuts = [1_000]

    def changing(request: BaseHTTPRequestHandler) -> None:
        route(request)
        route.body, route.mark = BODY, '"new"'

    download(wanted(server.add("/x.pt", changing)), tmp_path / "x.pt", QUICK)
    assert (tmp_path / "x.pt").read_bytes() == BODY
    assert route.seen[1]["If-Range"] == '"old"'


@pytest.mark.parametrize(
    "header", ["bytes 7-2999999/3000000", "bytes 1000-2999999/*", "chapters 1000-/x", ""]
)
def test_another_part_than_asked_for_is_not_taken(server: Server, tmp_path: Path, header: str) -> None:
    route = Ranged()
    route.cuts = [1_000]

    def wrong(request: BaseHTTPRequestHandler) -> None:
        if "Range" in request.headers:
            answer(BODY[7:], 206, {"Content-Range": header})(request)
        else:
            route(request)

    download(wanted(server.add("/x.pt", wrong)), tmp_path / "x.pt", QUICK)
    assert (tmp_path / "x.pt").read_bytes() == BODY


def test_what_an_earlier_call_has_left_is_gone_on_from(server: Server, tmp_path: Path) -> None:
    partial = tmp_path / f".x.pt.{SHA256[:16]}.tmp"
    partial.write_bytes(BODY[:2_000_000])
    route = Ranged()
    download(wanted(server.add("/x.pt", route)), tmp_path / "x.pt", QUICK)
    assert route.starts == ["bytes=2000000-"]
    assert (tmp_path / "x.pt").read_bytes() == BODY
    assert left(tmp_path) == ["x.pt"]


@pytest.mark.parametrize("size", [5, len(BODY), len(BODY) + 9])
def test_what_is_left_of_another_file_is_dropped(server: Server, tmp_path: Path, size: int) -> None:
    (tmp_path / f".x.pt.{SHA256[:16]}.tmp").write_bytes(bytes(size))
    download(wanted(server.add("/x.pt", Ranged())), tmp_path / "x.pt", QUICK)
    assert (tmp_path / "x.pt").read_bytes() == BODY


def test_a_whole_file_that_only_was_not_renamed_is_not_fetched(server: Server, tmp_path: Path) -> None:
    (tmp_path / f".x.pt.{SHA256[:16]}.tmp").write_bytes(BODY)
    download(wanted(server.url("/x.pt")), tmp_path / "x.pt", QUICK)
    assert (tmp_path / "x.pt").read_bytes() == BODY
    assert server.hits["/x.pt"] == 0


def test_wrong_bytes_leave_nothing(server: Server, tmp_path: Path) -> None:
    url = server.add("/x.pt", answer(BODY[:-1] + b"?"))
    said = fails(lambda: download(wanted(url), tmp_path / "x.pt", QUICK), url, f"expected {SHA256}")
    assert hashlib.sha256(BODY[:-1] + b"?").hexdigest() in said
    assert left(tmp_path) == []


@pytest.mark.parametrize("status", [401, 403, 404, 410, 304, 204, 101])
def test_what_will_not_pass_is_not_asked_for_again(server: Server, tmp_path: Path, status: int) -> None:
    url = server.add("/x.pt", answer(b"", status=status))
    fails(lambda: download(wanted(url), tmp_path / "x.pt", QUICK), f"HTTP {status}" if status != 101 else "(")
    assert status == 101 or server.hits["/x.pt"] == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_so_often(server: Server, tmp_path: Path, status: int) -> None:
    url = server.add("/x.pt", answer(b"", status=status))
    fails(lambda: download(wanted(url), tmp_path / "x.pt", QUICK), f"HTTP {status}")
    assert server.hits["/x.pt"] == 3


@pytest.mark.parametrize(
    ("route", "word"),
    [
        (answer(BODY + b"+"), "3,000,001 bytes, and at most 3,000,000"),
        (raw(b"HTTP/1.1 200 OK\r\n\r\n", BODY, b"+"), "more than the 3,000,000 bytes"),
        (answer(BODY, headers={"Content-Encoding": "gzip"}), "encoded as gzip"),
        (answer(b"", 302, {"Location": "http://127.0.0.1:1/x"}), "redirects to http://127.0.0.1:1/x"),
        (answer(b"", 302, {"Location": "file:///etc/passwd"}), "redirects to file:///etc/passwd"),
        (answer(b"", 302), "only https is followed"),
        (raw(b"nonsense\r\n\r\n"), "could not be fetched"),
        (raw(), "could not be fetched"),
        (
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n", BODY[:9]),
            "9 of 3,000,000|IncompleteRead",
        ),
    ],
    ids=["long", "longer than said", "encoded", "http", "file", "nowhere", "nonsense", "silence", "short"],
)
def test_what_a_server_does_wrong(server: Server, tmp_path: Path, route: Route, word: str) -> None:
    said = fails(lambda: download(wanted(server.add("/x", route)), tmp_path / "x.pt", QUICK), "put it at")
    assert any(each in said for each in word.split("|"))
    assert not (tmp_path / "x.pt").exists()


def test_a_silent_server_and_a_slow_one_are_given_up(server: Server, tmp_path: Path) -> None:
    silent = server.add("/silent", server.silence)
    short = Patience(silent=0.2, slow=0.3, slow_rate=1e6, tries=2, pause=0.01)
    fails(lambda: download(wanted(silent), tmp_path / "x.pt", short), "no answer in time")

    def dripping(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(BODY)))
        request.end_headers()
        for byte in BODY[:200]:
            request.wfile.write(bytes([byte]))
            time.sleep(0.05)

    fails(lambda: download(wanted(server.add("/slow", dripping)), tmp_path / "x.pt", short), "bytes came in")


def test_without_a_network_it_says_what_to_put_where(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x.pt"
        by_hand = f"where there is a network, and put it at {tmp_path / 'x.pt'}"
        fails(lambda: download(wanted(url), tmp_path / "x.pt", QUICK), url, "Connection refused", by_hand)
    unknown = wanted("https://nowhere.invalid/x.pt")
    fails(lambda: download(unknown, tmp_path / "x.pt", QUICK), "nowhere.invalid", by_hand)


def test_redirects_to_https_are_followed_where_the_certificate_is_known(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("openssl"):
        pytest.skip("no openssl here, which makes the certificates")
    found_authority(tmp_path, "known")
    route = Ranged()
    with Server(certify(tmp_path, "good", "localhost", 30, "known")).running() as secure:
        secure.add("/x.pt", route)
        there = f"https://localhost:{secure.port}/x.pt"
        url = server.add("/moved", answer(b"", 302, {"Location": there}))
        path = tmp_path / "there" / "x.pt"
        fails(lambda: download(wanted(url), path, QUICK), "certificate verify failed")
        assert server.hits["/moved"] == 1
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "known.pem"))
        download(wanted(url), path, QUICK)
        assert path.read_bytes() == BODY
        back = Wanted(f"https://localhost:{secure.port}/round", SHA256, len(BODY))
        secure.add("/round", answer(b"", 302, {"Location": "/round"}))
        fails(lambda: download(back, path.with_name("y.pt"), QUICK), "redirects more than 5 times")


def test_no_credentials_are_sent(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    route = Ranged()
    download(wanted(server.add("/x.pt", route)), tmp_path / "x.pt", QUICK)
    assert route.seen
    assert "Authorization" not in route.seen[0]


def test_a_full_disk_names_the_file(server: Server, tiny_disk: Path) -> None:
    body = BODY * 2
    route = answer(body)
    sought = Wanted(server.add("/x.pt", route), hashlib.sha256(body).hexdigest(), len(body))
    with pytest.raises(OSError, match="No space left on device") as caught:
        download(sought, tiny_disk / "x.pt", QUICK)
    assert caught.value.filename == str(tiny_disk / "x.pt")
    assert not (tiny_disk / "x.pt").exists()


def test_threads_fetch_it_once(server: Server, tmp_path: Path) -> None:
    url = server.add("/x.pt", answer(BODY))
    threads = [
        threading.Thread(target=download, args=(wanted(url), tmp_path / "x.pt", QUICK)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.hits["/x.pt"] == 1
    assert (tmp_path / "x.pt").read_bytes() == BODY


def process(url: str, path: Path) -> "subprocess.Popen[str]":
    code = "import sys; from pathlib import Path; from clipkit.downloads import Wanted, download; "
    code += "download(Wanted(sys.argv[1], sys.argv[2], 1 << 30), Path(sys.argv[3]))"
    command = [sys.executable, "-c", code, url, SHA256, str(path)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_a_killed_process_is_gone_on_from(server: Server, tmp_path: Path) -> None:
    halfway, seen = threading.Event(), list[str]()

    def stalling(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.headers.get("Range", "whole"))
        if len(seen) > 1:
            Ranged()(request)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(BODY)))
        request.end_headers()
        request.wfile.write(BODY[:2_500_000])
        halfway.set()
        server.stopping.wait(60)

    url, path = server.add("/x.pt", stalling), tmp_path / "x.pt"
    killed = process(url, path)
    assert halfway.wait(60)
    partial = tmp_path / f".x.pt.{SHA256[:16]}.tmp"
    until = time.monotonic() + 60
    while time.monotonic() < until and not (partial.exists() and partial.stat().st_size > 1_000_000):
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not path.exists()
    had = partial.stat().st_size
    assert had > 1_000_000
    download(wanted(url), path, QUICK)
    assert seen == ["whole", f"bytes={had}-"]
    assert path.read_bytes() == BODY
    assert left(tmp_path) == ["x.pt"]


def test_of_two_processes_one_fetches_and_the_other_waits(server: Server, tmp_path: Path) -> None:
    both_there = threading.Event()

    def held(request: BaseHTTPRequestHandler) -> None:
        both_there.wait(60)
        answer(BODY)(request)

    url, path = server.add("/x.pt", held), tmp_path / "x.pt"
    running = [process(url, path) for _ in range(2)]
    said: list[str] = []

    def listen(one: "subprocess.Popen[str]") -> None:
        assert one.stderr
        with one.stderr:
            for line in one.stderr:
                said.append(line)
                if "waiting for another process" in line:
                    both_there.set()

    listeners = [threading.Thread(target=listen, args=(one,)) for one in running]
    for each in listeners:
        each.start()
    for each in listeners:
        each.join()
    assert [one.wait() for one in running] == [0, 0]
    assert sum("waiting for another process" in line for line in said) == 1
    assert server.hits["/x.pt"] == 1
    assert left(tmp_path) == ["x.pt"]
