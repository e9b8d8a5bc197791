"""Messages as img2dataset 1.47.0 wrote them, run on a server of such answers, and as urllib words others."""

import pytest

from clipkit.ingest.img2dataset_output import reason_of
from clipkit.shards.schemas import REASONS

FAILED_TO_DOWNLOAD = {
    "HTTP Error 404: Not Found": "http_4xx",
    "HTTP Error 429: Too Many Requests": "rate_limited",
    "HTTP Error 408: Request Timeout": "timeout",
    "HTTP Error 503: Service Unavailable": "http_5xx",
    "HTTP Error 301: The HTTP server returned a redirect error that would lead to an infinite loop.\n"
    "The last 30x error message was:\nMoved Permanently": "redirects",
    "HTTP Error 999: Request denied": "http_5xx",
    "Use of image disallowed by X-Robots-Tag directive": "opted_out",
    "timed out": "timeout",
    "<urlopen error timed out>": "timeout",
    "The read operation timed out": "timeout",
    "<urlopen error _ssl.c:989: The handshake operation timed out>": "timeout",
    "<urlopen error [Errno 110] Connection timed out>": "timeout",
    "<urlopen error [Errno -2] Name or service not known>": "dns_not_found",
    "<urlopen error [Errno -5] No address associated with hostname>": "dns_not_found",
    "<urlopen error [Errno 8] nodename nor servname provided, or not known>": "dns_not_found",
    "<urlopen error [Errno -3] Temporary failure in name resolution>": "dns_failed",
    "<urlopen error [Errno 111] Connection refused>": "connect",
    "<urlopen error [Errno 113] No route to host>": "connect",
    "<urlopen error [Errno 101] Network is unreachable>": "connect",
    "[Errno 104] Connection reset by peer": "reset",
    "Remote end closed connection without response": "reset",
    "<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired "
    "(_ssl.c:1006)>": "tls",
    "<urlopen error [SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol>": "tls",
    "unknown url type: 'nonsense'": "scheme",
    "<urlopen error unknown url type: data>": "scheme",
    "<urlopen error no host given>": "bad_url",
    "URL can't contain control characters. '/a b.jpg' (found at least ' ')": "bad_url",
    "nonnumeric port: 'x'": "bad_url",
    "Invalid IPv6 URL": "bad_url",
    "'ascii' codec can't encode character '\\xfc' in position 7: ordinal not in range(128)": "bad_url",
    "encoding with 'idna' codec failed (UnicodeError: label empty or too long)": "bad_url",
    "IncompleteRead(300 bytes read, 9699 more expected)": "truncated",
    "got more than 100 headers": "protocol",
    "hash mismatch": "hash_mismatch",
    "": "protocol",
}
FAILED_TO_RESIZE = {
    "Image decoding error": "broken_image",
    "OpenCV(4.14.0) /io/opencv/modules/imgcodecs/src/loadsave.cpp:1310: error: (-215:Assertion failed) "
    "!buf.empty() in function 'imdecode_'\n": "empty",
    "image too small": "too_small",
    "image area too large": "too_many_pixels",
    "aspect ratio too large": "aspect",
    "blurrer not defined": "broken_image",
}


@pytest.mark.parametrize("message", FAILED_TO_DOWNLOAD)
def test_reasons_of_failed_downloads(message: str) -> None:
    assert reason_of("failed_to_download", message) == FAILED_TO_DOWNLOAD[message]


@pytest.mark.parametrize("message", FAILED_TO_RESIZE)
def test_reasons_of_failed_pictures(message: str) -> None:
    assert reason_of("failed_to_resize", message) == FAILED_TO_RESIZE[message]


def test_every_reason_is_of_the_closed_set() -> None:
    found = {*FAILED_TO_DOWNLOAD.values(), *FAILED_TO_RESIZE.values()}
    assert found <= REASONS.keys()
