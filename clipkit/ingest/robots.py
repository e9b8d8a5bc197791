"""Whether a site opts out by an X-Robots-Tag header, and how long a Retry-After asks to wait."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Addressed to whichever robot: who asks one of them to keep off is not asked for training data.
_OPTED_OUT = re.compile(r"(?<![\w-])(noai|noimageai|noindex|noimageindex|none)(?![\w-])", re.IGNORECASE)
_READABLE = re.compile(r"[\t\x20-\x7e]*")


def opts_out(x_robots_tag: str) -> bool:
    """Tell whether the header forbids indexing or AI use (`none` is short for `noindex, nofollow`).

    One that cannot be read, with other characters than ASCII's, counts as if it did.
    """
    return not _READABLE.fullmatch(x_robots_tag) or bool(_OPTED_OUT.search(x_robots_tag))


def retry_after(value: str, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header (RFC 9110, 10.2.3) asks for, None if malformed."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
