"""From the text of a list to a URL that can be requested."""

import re
import socket
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlsplit

import idna

from clipkit.ingest.rows import Failed

MAX_URL_BYTES = 16_384
_LONGEST_HOST = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_KEPT = "!#$%&'()*+,/:;=?@[]~"  # RFC 3986's reserved characters; an existing escape stays as it is


class Target(NamedTuple):
    """What to request, in ASCII, and the host's name in lower case and its port."""

    url: str
    host: str
    port: int

    @property
    def is_address(self) -> bool:
        """Whether the host is an address as such, not a name."""
        if self.host[0] == "[":
            return True
        with suppress(OSError):
            return bool(socket.inet_aton(self.host))  # in any notation, which libcurl knows, too
        return False


def request_target(url: str) -> Target | Failed:
    """Return the target of `url`: other characters percent-encoded as UTF-8, an international host in IDNA.

    Not http or https gives `scheme`; no host, control characters or more than MAX_URL_BYTES `bad_url`.
    """
    scheme = _SCHEME.match(url)
    if scheme and scheme[1].lower() not in ("http", "https"):
        return Failed("scheme", f"expected http or https, found {scheme[1][:20]}")
    if not scheme or _CONTROL.search(url):
        return Failed("bad_url", "a control character" if scheme else "no http or https URL")
    try:
        parts = urlsplit(url)
        host = _host(parts)
        target = _rebuilt(parts, host)
        if parts.port == 0:
            raise ValueError("port 0")
    except ValueError as error:
        return Failed("bad_url", str(error)[:100])
    if len(target) > MAX_URL_BYTES:
        return Failed("bad_url", f"longer than {MAX_URL_BYTES} bytes")
    return Target(target, host, parts.port or (443 if parts.scheme == "https" else 80))


def _rebuilt(parts: SplitResult, host: str) -> str:
    login, at, _ = parts.netloc.rpartition("@")
    port = "" if parts.port is None else f":{parts.port}"
    query = f"?{parts.query}" if parts.query else ""
    where = quote(login, safe=_KEPT) + at + host + port
    return f"{parts.scheme}://{where}{quote((parts.path or '/') + query, safe=_KEPT)}"


def _ascii_label(label: str) -> str:
    # As browsers do: by the table of IDNA 2008, where ß stays itself, but without its rules for labels.
    return label if label.isascii() else "xn--" + label.encode("punycode").decode()


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if ":" in host:
        return f"[{host}]"
    if not host.isascii() and len(host) <= _LONGEST_HOST:
        host = ".".join(map(_ascii_label, idna.uts46_remap(host, std3_rules=False).split(".")))
    if not host or len(host) > _LONGEST_HOST or not re.fullmatch(r"[a-z0-9._-]+", host):
        raise ValueError("no host, or one that is no name")
    return host
