"""A real S3 server (moto's) on loopback, and before it a door at which requests can be made to fail."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.serving import answering

BUCKET = "bucket"
Fault = Callable[[str, str], str | None]
"""(method, path) → a status such as "503", "short", "slow", "late" (by a second), "reset", "changed"; None
for a proper answer.
"""

_REFUSALS = {"403": "AccessDenied", "500": "InternalError", "503": "SlowDown"}
_HOP = {"connection", "transfer-encoding", "host"}


class _Door(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Listener"

    def handle_any(self) -> None:
        store = self.server.store
        store.requests.append((self.command, self.path))
        store.signed.append("Authorization" in self.headers)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = store.fault(self.command, self.path)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.close_connection = True
        elif fault in _REFUSALS:
            words = f"<Error><Code>{_REFUSALS[fault]}</Code><Message>not now, not you</Message></Error>"
            content = b"" if self.command == "HEAD" else words.encode()
            self.answer(int(fault), {}, content, len(content))
        else:
            self.forward(body, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 (http.server's names)

    def forward(self, body: bytes, fault: str | None) -> None:
        server = http.client.HTTPConnection("127.0.0.1", self.server.store.port)
        headers = dict(self.headers.items())
        if "Range" in headers and (asked := self.server.store.range_of(headers.pop("Range"))) is not None:
            headers["Range"] = asked
        server.request(self.command, self.path, body, headers)
        answer = server.getresponse()
        content = answer.read()
        server.close()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
        if fault == "slow":
            self.server.store.stopping.wait(20)
        if fault == "late":
            self.server.store.stopping.wait(1)
        length = int(headers.pop("Content-Length", len(content)))
        if fault == "short":
            content = content[: len(content) // 2]
        if fault == "changed":
            content = bytes([*content[:-1], content[-1] ^ 1])
        self.answer(answer.status, headers, content, length)

    def answer(self, status: int, headers: dict[str, str], content: bytes, length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = self.close_connection or len(content) < length

    def log_message(self, *values: object) -> None:
        pass


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    store: "ObjectStore"

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class ObjectStore:
    """The door's address is `endpoint`. `fault` says what befalls a request; `requests` are those so far, and
    which were `signed`.
    """

    def __init__(self, port: int, fs: Any = None):
        self.port = port
        self.requests: list[tuple[str, str]] = []
        self.signed: list[bool] = []
        self.fault: Fault = lambda method, path: None
        self.range_of: Callable[[str], str | None] = lambda asked: asked
        """What is made of the byte range that a request asks for; None for the whole object."""
        self.stopping = threading.Event()
        self.http = _Listener(("127.0.0.1", 0), _Door)
        self.http.store = self
        self.endpoint = f"http://127.0.0.1:{self.http.server_address[1]}"
        import s3fs  # here: loader processes import tests, and this takes longer than all the rest

        self.fs: Any = fs or s3fs.S3FileSystem(
            key="test", secret="test", endpoint_url=f"http://127.0.0.1:{port}", skip_instance_cache=True
        )
        """What lies there, by another way than the door."""

    @contextmanager
    def running(self) -> Iterator["ObjectStore"]:
        """Answer from a thread until the block is left."""
        with answering(self.http, self.stopping):
            yield self

    def environment(self) -> dict[str, str]:
        """What a command needs to know to use it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def s3_server(folder: Path) -> AbstractContextManager[int]:
    """Run moto's S3 server; yield its port."""
    return _server(folder, "moto.server")


def google_server(folder: Path) -> AbstractContextManager[int]:
    """Run an emulator of Google's buckets with a bucket; yield its port."""
    words = ("start", "--in-memory", "--quiet", "--default-bucket", BUCKET)
    return _server(folder, "gcp_storage_emulator", *words)


@contextmanager
def _server(folder: Path, module: str, *words: str) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", module, *words, "-H", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PYTHONWARNINGS": ""})
    try:
        _wait_until_it_answers(server, port)
        yield port
    finally:
        server.kill()
        server.wait()


def _wait_until_it_answers(server: "subprocess.Popen[bytes]", port: int) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and server.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the store's server did not start")
