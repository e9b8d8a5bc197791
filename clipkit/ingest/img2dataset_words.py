"""What img2dataset (1.47) says of a URL that failed, as one of our reasons."""

import re

from clipkit.ingest.failures import status_reason

_HTTP = re.compile(r"HTTP Error (\d{3})\b")
_MESSAGES = (
    # what urllib, the sockets and img2dataset say (in lower case) → reason; the first that fits
    ("timed out", "timeout"),
    ("name or service not known", "dns_not_found"),
    ("no address associated with hostname", "dns_not_found"),
    ("nodename nor servname", "dns_not_found"),
    ("name resolution", "dns_failed"),
    ("connection reset", "reset"),
    ("closed connection", "reset"),
    ("connection refused", "connect"),
    ("unreachable", "connect"),
    ("no route to host", "connect"),
    ("broken pipe", "reset"),
    ("ssl", "tls"),
    ("eof occurred in violation of protocol", "tls"),
    ("certificate", "tls"),
    ("unknown url type", "scheme"),
    ("no host given", "bad_url"),
    ("control characters", "bad_url"),
    ("nonnumeric port", "bad_url"),
    ("invalid ipv6 url", "bad_url"),
    ("codec can't encode", "bad_url"),
    ("with 'idna' codec", "bad_url"),
    ("incompleteread", "truncated"),
    ("x-robots-tag", "opted_out"),
    ("image too small", "too_small"),
    ("image area too large", "too_many_pixels"),
    ("aspect ratio too large", "aspect"),
    ("hash mismatch", "hash_mismatch"),
    ("!buf.empty()", "empty"),
    ("[errno ", "connect"),
)


def reason_of(words: str, otherwise: str = "protocol") -> tuple[str, int | None]:
    """Return the reason for img2dataset's `words`, and the HTTP status if they tell it.

    Words are all that it tells: a server that does not answer in HTTP may put any of these there.
    """
    if http := _HTTP.match(words):
        status = int(http[1])
        to_other_scheme = status_reason(status) == "redirects" and "Redirection to url" in words
        return "scheme" if to_other_scheme else status_reason(status) or "protocol", status
    lower = words.lower()
    return next((reason for known, reason in _MESSAGES if known in lower), otherwise), None
