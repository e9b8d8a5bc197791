"""A real HTTP server on loopback whose answers each test writes itself, down to the bytes; and pictures."""

import io
import os
import signal
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Route = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def answering(http: ThreadingHTTPServer, stopping: threading.Event) -> Iterator[None]:
    """Let a server answer from a thread until the block is left; `stopping` is set then."""
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        http.shutdown()
        thread.join()
        http.server_close()


class Server:
    """Routes by path; `hits` counts the requests for each. `stopping` is set when the test has ended.

    With a `context` it speaks TLS.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.routes: dict[str, Route] = {}
        self.hits: Counter[str] = Counter()
        self.stopping = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                server.hits[self.path] += 1
                route = server.routes.get(self.path)
                try:
                    (route or answer(b"not here", status=404))(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            do_CONNECT = do_GET  # as a proxy; the path is then a host and a port

            def log_message(self, *values: object) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            request_queue_size = 256

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # clients that hang up are what is being tested

        self.http = Listener(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        if context:  # whoever connects and then is silent keeps only his own thread waiting
            self.http.socket = context.wrap_socket(
                self.http.socket, server_side=True, do_handshake_on_connect=False
            )

    @contextmanager
    def running(self) -> Iterator["Server"]:
        """Answer from a thread until the block is left."""
        with answering(self.http, self.stopping):
            yield self

    def add(self, path: str, route: Route) -> str:
        """Answer `path` by `route`; return its URL."""
        self.routes[path] = route
        return self.url(path)

    def silence(self, request: BaseHTTPRequestHandler) -> None:
        """Say nothing until the test has ended."""
        self.stopping.wait(60)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


class Web:
    """A folder behind http; of each path, so many first requests are answered by 503, or cut `short`.

    With `sizeless` no answer tells how long it is.
    """

    def __init__(self, folder: Path, *, sizeless: bool = False):
        self.busy: Counter[str] = Counter()
        self.short: Counter[str] = Counter()
        self.got: Counter[str] = Counter()
        web = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                web.got[self.path] += 1
                if web.busy[self.path] > 0:
                    web.busy[self.path] -= 1
                    self.send_error(503)
                elif web.short[self.path] > 0:
                    web.short[self.path] -= 1
                    content = folder.joinpath(self.path[1:]).read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2])
                else:
                    super().do_GET()

            def send_header(self, keyword: str, value: str) -> None:
                if not (sizeless and keyword == "Content-Length"):
                    super().send_header(keyword, value)

            def log_message(self, *values: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator["Web"]:
        """Answer from a thread until the block is left."""
        with answering(self.http, threading.Event()):
            yield self


class Present:
    """How many threads are inside `now`, and how many were at `most`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


def answer(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Route:
    """A proper answer with this body."""

    def route(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return route


def raw(*pieces: bytes) -> Route:
    """These very bytes, then the end of the connection."""

    def route(request: BaseHTTPRequestHandler) -> None:
        for piece in pieces:
            request.wfile.write(piece)
        request.close_connection = True

    return route


def photo(width: int = 320, height: int = 240, seed: int = 0) -> Image.Image:
    """A smooth picture, different for each seed and in each of its corners."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def kill_workers(*_: object) -> None:
    """Kill them as the system would: without a word to the objects that stand for them."""
    for child in _children(os.getpid()):
        if b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes():
            for worker in _children(child):
                os.kill(worker, signal.SIGKILL)


def _children(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for each in children for child in each.read_text().split()]
