"""One libcurl handle: what is asked of a server, and what is taken from it."""

import os
import re
import socket
import ssl
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from string import printable
from urllib.parse import quote, urljoin

import pycurl

from clipkit.ingest.addresses import is_allowed
from clipkit.ingest.budget import Body, Budget
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.failures import UNANNOUNCED_END, curl_reason, status_reason
from clipkit.ingest.robots import opts_out, retry_after
from clipkit.ingest.rows import Failed
from clipkit.ingest.urls import Target, request_target

MAX_REDIRECTS = 5
MAX_HEADER_BYTES = 100_000  # over all redirects of one attempt
MIN_BYTES_PER_SECOND = 1000
_ERROR_BODY_BYTES = 65_536  # read on, so that the connection can be used again
_SMALL_PIECES, _PIECE_BYTES = 20_000, 256  # more than so many pieces must be this large on average
_STATUS = re.compile(rb"[1-5][0-9][0-9]")
_OF_INTEREST = re.compile(
    rb"\s*(x-robots-tag|retry-after|content-(encoding|length)|transfer-encoding|location)|[ \t]",
    re.IGNORECASE,
)
_PLAIN = ("", "identity", "none")
_SUPPRESS_CONNECT_HEADERS, _QUICK_EXIT = 265, 322  # libcurl's numbers; pycurl has no names for them
_QUICK_EXIT_SINCE = 0x075700
_NOT_DECODED = (pycurl.E_BAD_CONTENT_ENCODING, pycurl.E_WRITE_ERROR)
_VARYING = re.compile(r" (after|with) \d.*")  # times and counts: the same failure has the same words


class Transfer:
    """A reusable libcurl handle with the state of its current attempt.

    Only http and https, no cookies, no proxy but the one of the settings, and without one no other than
    allowed addresses: each socket's address is judged when it is opened, after DNS. Redirects are not
    followed but told, so that their hosts' names are looked up like all others.
    """

    def __init__(self, config: IngestConfig, budget: Budget):
        self._config = config
        self._budget = budget
        self._max_bytes = config.max_bytes  # looked up for each piece of a body
        self.handle = pycurl.Curl()
        for option, value in _options(config).items():
            self.handle.setopt(option, value)
        self.handle.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        self.handle.setopt(pycurl.HEADERFUNCTION, self._take_header)
        self.handle.setopt(pycurl.WRITEFUNCTION, self._take_body)
        self.prepare()

    def prepare(self, *, again: bool = False) -> None:
        """Make ready for one attempt, which `ask` begins; `again` connects anew."""
        self.status = 0
        self._header_bytes = 0
        self._redirects = 0
        self._is_decoded = True
        self.handle.setopt(pycurl.FRESH_CONNECT, again)  # idle connections may all be dead

    def ask(self, target: Target, seconds: float, addresses: Sequence[str] = ()) -> None:
        """Make ready for one request of `target` within `seconds`; its host has these `addresses`, or libcurl
        looks for some.
        """
        self.body = Body(self._resume)
        self.retry_after: float | None = None
        self.target = target
        self._failed: Failed | None = None
        self._not_resumed: tuple[int, str] | None = None
        self._refused_address = ""
        self._field = b""
        self._encodings = 0
        self._pieces = 0
        self._discarded = 0
        self._location = b""
        self._is_moved = False
        self._has_end = False
        self._ends_by_closing = False
        self._content = BytesIO()
        self.handle.setopt(pycurl.URL, target.url)
        if addresses:  # "+": as if libcurl had asked for them
            listed = ",".join(f"[{address}]" if ":" in address else address for address in addresses)
            self.handle.setopt(pycurl.RESOLVE, [f"+{target.host}:{target.port}:{listed}"])
        self.handle.setopt(pycurl.HTTP_CONTENT_DECODING, self._is_decoded)
        self.handle.setopt(pycurl.TIMEOUT_MS, max(1, int(seconds * 1000)))

    def finished(self, code: int, message: str) -> Failed | bytes | Target:
        """Return the body, or why there is none, after libcurl's `code` (0: success) and `message`; or what
        is to be asked next.

        That is what a redirect names, or the same URL for its bytes as they are, if they are not in the
        encoding that their header says: a name of none (utf-8, aws-chunked), say, or one that was undone.
        """
        code, message = self._not_resumed or (code, message)
        if self._ends_by_closing and UNANNOUNCED_END in message:
            code = 0  # many servers end TLS like this; whether it is all of the picture, its decoder tells
        status = self.status or None
        if self._failed:
            reason, detail = self._failed.reason, self._failed.detail
        elif self._is_moved:
            following = self._followed()
            if isinstance(following, Target):
                return following
            reason, detail = following.reason, following.detail
        elif self._refused_address and code:
            reason, detail = "address", f"{self._refused_address} is not a public address"
        elif (self._discarded or not code) and (of_status := status_reason(self.status)):
            reason, detail = of_status, f"HTTP {status}" if status else "no status that HTTP has"
        elif self._encodings and self._is_decoded and code in _NOT_DECODED:
            self._is_decoded = False
            return self.target
        elif code:
            reason = curl_reason(code, message, received=self.body.size > 0)
            detail = _VARYING.sub("", message)[:200] or f"libcurl error {code}"
            if reason == "too_large":  # which of libcurl's checks saw it first does not matter
                detail = f"more than {self._config.max_bytes} bytes"
        else:
            content, self._content = self._content, BytesIO()
            return content.getvalue()
        return Failed(reason, detail, status)

    def _followed(self) -> Target | Failed:
        self._redirects += 1
        if self._redirects > MAX_REDIRECTS:
            return Failed("redirects", f"Maximum ({MAX_REDIRECTS}) redirects followed")
        try:
            location = self._location.decode()
        except UnicodeDecodeError:
            location = quote(self._location, safe=printable)
        try:
            return request_target(urljoin(self.target.url, location))
        except ValueError as error:
            return Failed("bad_url", str(error)[:100])

    def _resume(self) -> None:
        try:
            self.handle.pause(pycurl.PAUSE_CONT)
        except pycurl.error as error:  # about what was held back; later libcurl tells of a write error
            if error.args[0] != pycurl.E_BAD_FUNCTION_ARGUMENT:  # it has ended already
                self._not_resumed = error.args[0], self.handle.errstr()

    def _open_socket(
        self, purpose: int, address: tuple[int, int, int, tuple[str, int]]
    ) -> socket.socket | int:
        family, kind, protocol, where = address
        known = family in (socket.AF_INET, socket.AF_INET6)
        if not known or not (
            self._config.proxy or is_allowed(where[0], allow_private=self._config.allow_private_hosts)
        ):
            self._refused_address = str(where[0])[:100]
            return int(pycurl.SOCKET_BAD)
        return _HandedOver(family, kind, protocol)

    def _take_header(self, line: bytes) -> int:
        self._header_bytes += len(line)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._failed = Failed("protocol", f"more than {MAX_HEADER_BYTES} bytes of headers")
            return -1
        if line.startswith(b"HTTP/") and not self.body.size and not self._discarded:
            self.status = _status(line)
            self.retry_after = None
            self._encodings = 0
            self._location = b""
            self._has_end = False
            return len(line)
        if not line.strip():
            self._is_moved = 300 <= self.status < 400 and self._location != b""
            self._ends_by_closing = not self._has_end
            # Such a body may never end.
            return -1 if self._is_moved and self._ends_by_closing else len(line)
        if not _OF_INTEREST.match(line):
            self._field = b""
            return len(line)
        if line[:1] in (b" ", b"\t"):  # the field before goes on (RFC 9112, 5.2)
            value = line
        else:
            name, _, value = line.partition(b":")
            self._field = name.strip().lower()
            if self._field == b"location":
                self._location = self._location or value.strip()
        self._take_field(self._field, value.decode("latin-1").strip())
        return -1 if self._failed else len(line)

    def _take_field(self, name: bytes, value: str) -> None:
        if name == b"x-robots-tag" and self.status < 400:  # that of a redirect is about the list's own URL
            if opts_out(value) and not self._config.ignore_robots_tag:
                self._failed = Failed("opted_out", f"X-Robots-Tag: {value}"[:200])
        elif name == b"retry-after":
            self.retry_after = retry_after(value)
        elif name in (b"content-length", b"transfer-encoding"):
            self._has_end = True
        elif name == b"content-encoding":
            self._encodings += sum(encoding.strip().lower() not in _PLAIN for encoding in value.split(","))
            if self._encodings > 1:  # a few kilobytes can keep the decoder of a third one busy for hours
                self._failed = Failed("protocol", "more than one content encoding")

    def _take_body(self, data: bytes) -> int:
        if not 200 <= self.status < 300:
            self._discarded += len(data)
            return len(data) if self._discarded <= _ERROR_BODY_BYTES else -1
        if self.body.size + len(data) > self._max_bytes:
            self._failed = Failed("too_large", f"more than {self._config.max_bytes} bytes")
            return -1
        if not self._budget.grant(self.body, len(data)):
            return int(pycurl.WRITEFUNC_PAUSE)
        self._pieces += 1
        if self._pieces > _SMALL_PIECES + self.body.size // _PIECE_BYTES:
            # Chunks of one byte, say: each costs as much as a large one, and all others would wait for them.
            self._failed = Failed("protocol", f"pieces of fewer than {_PIECE_BYTES} bytes")
            return -1
        return self._content.write(data)


class _HandedOver(socket.socket):
    """A socket that pycurl duplicates: ours goes when nobody holds it any more."""

    def __del__(self) -> None:
        self.close()


def _status(line: bytes) -> int:
    number = line.split(maxsplit=2)[1:2]
    return int(number[0]) if number and _STATUS.fullmatch(number[0]) else 0


def _options(config: IngestConfig) -> dict[int, object]:
    options: dict[int, object] = {
        pycurl.NOSIGNAL: 1,
        pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
        pycurl.PROXY: config.proxy or "",  # not even an empty one would leave it to the environment
        pycurl.NOPROXY: "" if config.proxy else "*",
        _SUPPRESS_CONNECT_HEADERS: 1,  # those are the proxy's, not the server's
        pycurl.USERAGENT: config.user_agent,
        pycurl.HTTPHEADER: ["Accept: image/*, */*;q=0.8"],
        pycurl.ACCEPT_ENCODING: "identity",  # asks for none; one that comes anyway is undone, and counted
        pycurl.MAXFILESIZE_LARGE: config.max_bytes,
        pycurl.CONNECTTIMEOUT_MS: int(config.timeout * 1000),
        pycurl.LOW_SPEED_LIMIT: MIN_BYTES_PER_SECOND,
        pycurl.LOW_SPEED_TIME: round(config.timeout),
        pycurl.DNS_CACHE_TIMEOUT: 600,
        pycurl.BUFFERSIZE: 65_536,
    }
    if pycurl.version_info()[2] >= _QUICK_EXIT_SINCE:
        options[_QUICK_EXIT] = 1  # a silent name server keeps its own URL waiting, not the worker
    return options | authorities()


def authorities() -> dict[int, object]:
    """Return libcurl's options for whose certificates are believed: those of servers, and of proxies."""
    bundle = _ca_bundle()
    return {pycurl.CAINFO: bundle, pycurl.PROXY_CAINFO: bundle} if bundle else {}


@lru_cache(maxsize=1)
def _ca_bundle() -> str | None:
    # The libcurl inside pycurl's wheels may look where another distribution keeps its certificates.
    candidates = (
        os.environ.get("SSL_CERT_FILE"),
        ssl.get_default_verify_paths().cafile,
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/cert.pem",
    )
    return next((path for path in candidates if path and Path(path).is_file()), None)
