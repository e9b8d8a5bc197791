"""What a hostile server does to a client, each misdeed with the row that it must end as."""

import gzip
import socket
import struct
import time
import zlib
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple

from tests.serving import Route, answer, encoded, photo, raw

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
PICTURE = encoded(photo())
TIMEOUT, RETRIES = 2, 1
TRIED = 1 + RETRIES
NO_STATUS = None


class Misdeed(NamedTuple):
    """A server's answer, and the failure it gives: how often it is asked, and words of the detail."""

    reason: str
    status: int | None
    attempts: int
    route: Route
    detail: str = ""


def redirect(location: str) -> Route:
    return answer(b"", 302, {"Location": location})


def endless(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(OK + b"Content-Type: image/jpeg\r\n\r\n" + PICTURE)
    while True:
        request.wfile.write(bytes(65_536))


def endless_elsewhere(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: /nowhere\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        request.wfile.write(b"1000\r\n" + bytes(4096) + b"\r\n")


def tiny_chunks(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(CHUNKED)
    while True:
        request.wfile.write(b"1\r\nx\r\n" * 10_000)


def endless_chunk_line(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(CHUNKED + b"5;")
    while True:
        request.wfile.write(b"x" * 65_536)


def dripping(start: bytes, drop: bytes, seconds: float) -> Route:
    """Say `start` and then `drop` every so many seconds, until the client has had enough."""

    def route(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(start)
        while True:
            time.sleep(seconds)
            request.wfile.write(drop)

    return route


def silent(request: BaseHTTPRequestHandler) -> None:
    request.rfile.read(1)  # until the client hangs up


def sized(length: bytes) -> Route:
    """A picture that says it has another length."""
    return raw(OK + b"Content-Length: " + length + b"\r\n\r\n", PICTURE)


def reset_after(said: bytes) -> Route:
    """Hang up in the middle, without the usual goodbye: a real RST."""

    def route(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(said)
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.connection.close()
        request.close_connection = True

    return route


def limited_once(seconds: str) -> Route:
    """Ask the first one to come back after so many seconds."""
    said: list[str] = []

    def route(request: BaseHTTPRequestHandler) -> None:
        if said:
            answer(PICTURE)(request)
        else:
            said.append(seconds)
            answer(b"", 429, {"Retry-After": seconds})(request)

    return route


def png(width: int, height: int) -> bytes:
    """A tiny PNG that says it is huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    )


def resized(picture: bytes, mark: bytes, offset: int, width_and_height: bytes) -> bytes:
    """The picture with other words about its size, at `offset` behind `mark`."""
    place = picture.index(mark) + offset
    return picture[:place] + width_and_height + picture[place + len(width_and_height) :]


GZIP_BOMB = gzip.compress(bytes(100_000_000), 1)
# Ten megabytes of deflate's empty blocks, which decode to nothing at all, twice compressed.
WRAPPED = gzip.compress(gzip.compress(b"\x1f\x8b\x08" + bytes(7) + b"\x00\x00\x00\xff\xff" * 2_000_000))
LARGE_JPEG = resized(PICTURE, b"\xff\xc0", 5, struct.pack(">HH", 65_500, 65_500))
LARGE_GIF = resized(encoded(photo(), "GIF"), b"GIF8", 6, struct.pack("<HH", 65_535, 65_535))
LARGE_BMP = resized(encoded(photo(), "BMP"), b"BM", 18, struct.pack("<ii", 100_000, 100_000))


MANY_FIELDS = (b"X: " + b"x" * 90 + b"\r\n") * 9000
HTML = b"<!DOCTYPE html><p>sorry"

MISDEEDS = {
    # Bodies: too much, too slow, too little.
    "endless body": Misdeed("too_large", 200, 1, endless, "more than"),
    "endless body of a redirect": Misdeed("http_4xx", 404, 1, endless_elsewhere),
    "tiny chunks": Misdeed("protocol", 200, 1, tiny_chunks, "pieces"),
    "endless chunk line": Misdeed("timeout", 200, TRIED, endless_chunk_line),
    "one byte a second": Misdeed("too_slow", 200, TRIED, dripping(OK + b"\r\n", b"x", 0.9)),
    "slow chunks": Misdeed("too_slow", 200, TRIED, dripping(CHUNKED, b"1\r\nx\r\n", 0.3)),
    "slow headers": Misdeed("timeout", 200, TRIED, dripping(OK + b"X: ", b"x", 0.3)),
    "silence": Misdeed("timeout", NO_STATUS, TRIED, silent),
    "nothing": Misdeed("reset", NO_STATUS, TRIED, raw()),
    "no body": Misdeed("empty", 200, 1, answer(b"")),
    # A wrong Content-Length.
    "too long a length": Misdeed("truncated", 200, TRIED, sized(b"99999")),
    "too short a length": Misdeed("broken_image", 200, 1, sized(b"999")),
    "negative length": Misdeed("protocol", 200, 1, sized(b"-1")),
    "huge length": Misdeed("too_large", 200, 1, sized(b"99999999999")),
    "length of fifty digits": Misdeed("too_large", 200, 1, sized(b"9" * 50)),
    # Bombs.
    "gzip bomb": Misdeed(
        "too_large", 200, 1, answer(GZIP_BOMB, 200, {"Content-Encoding": "gzip"}), "more than"
    ),
    "gzip bomb in wrappings": Misdeed(
        "protocol", 200, 1, answer(WRAPPED, 200, {"Content-Encoding": "gzip, gzip, gzip"}), "encoding"
    ),
    "pixel bomb": Misdeed("too_many_pixels", 200, 1, answer(png(100_000, 100_000)), "10000000000 pixels"),
    "pixel bomb as JPEG": Misdeed("too_many_pixels", 200, 1, answer(LARGE_JPEG), "65500 x 65500"),
    "pixel bomb as GIF": Misdeed("too_many_pixels", 200, 1, answer(LARGE_GIF)),
    "pixel bomb as BMP": Misdeed("too_many_pixels", 200, 1, answer(LARGE_BMP)),
    # What is no picture.
    "HTML as JPEG": Misdeed(
        "not_an_image", 200, 1, answer(HTML, 200, {"Content-Type": "image/jpeg"}), "HTML"
    ),
    "truncated JPEG": Misdeed("broken_image", 200, 1, answer(PICTURE[: len(PICTURE) // 2])),
    # Redirects.
    "redirect loop": Misdeed("redirects", 302, 1, redirect("/redirect%20loop")),
    "redirect to a file": Misdeed("scheme", 302, 1, redirect("file:///etc/passwd"), "file"),
    "redirect to link-local": Misdeed("address", 302, 1, redirect("http://169.254.169.254/"), "169.254.169"),
    "redirect to IPv6 link-local": Misdeed("address", 302, 1, redirect("http://[fe80::1]/"), "fe80::1"),
    "redirect to NAT64": Misdeed("address", 302, 1, redirect("http://[64:ff9b::a9fe:a9fe]/"), "64:ff9b::"),
    "redirect to a closed port": Misdeed("connect", 302, TRIED, redirect("http://127.0.0.1:9/")),
    # Connections that break, answers that are not HTTP as we speak it.
    "reset at once": Misdeed("reset", NO_STATUS, TRIED, reset_after(b"")),
    "reset in the headers": Misdeed("reset", 200, TRIED, reset_after(OK + b"X: y\r\n")),
    "reset in the body": Misdeed("reset", 200, TRIED, reset_after(OK + b"Content-Length: 9999\r\n\r\n")),
    "no HTTP": Misdeed("protocol", NO_STATUS, 1, raw(b"SSH-2.0-OpenSSH_9.2\r\n")),
    # Floods of headers.
    "many headers": Misdeed("protocol", 200, 1, raw(OK + MANY_FIELDS), "headers"),
    "one long header": Misdeed("protocol", 200, 1, raw(OK + b"X: ", b"x" * 1_000_000)),
    "header without end": Misdeed("protocol", 200, 1, dripping(OK + b"X: ", b"x" * 50_000, 0)),
    "interim answers": Misdeed("protocol", 100, 1, raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 9000), "headers"),
    "many trailers": Misdeed("protocol", 200, 1, raw(CHUNKED + b"0\r\n" + MANY_FIELDS), "headers"),
    # What servers say openly.
    "opted out": Misdeed("opted_out", 200, 1, answer(PICTURE, 200, {"x-ROBOTS-tag": "a: NoAI"}), "NoAI"),
    "opted out elsewhere": Misdeed(
        "opted_out", 302, 1, answer(b"", 302, {"Location": "/good", "X-Robots-Tag": "noimageai"})
    ),
    "gone": Misdeed("http_4xx", 404, 1, answer(b"x" * 500_000, 404), "404"),
    "broken": Misdeed("http_5xx", 500, TRIED, answer(b"", 500), "500"),
}
