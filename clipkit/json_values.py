"""JSON that strangers wrote."""

import json
import re
from typing import Any

_HALVES = re.compile("[\ud800-\udfff]")  # of characters, which JSON can spell and no UTF-8 hold


def parsed_json(text: str | bytes) -> Any:
    """Return the value that `text` stands for. Raises ValueError for what is no JSON, or nested too deeply.

    Python's own parser raises RecursionError for the latter, of which its callers would not think.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def without_halves(text: str) -> str:
    """Return a string of JSON with U+FFFD for each half of a character in it."""
    return _HALVES.sub("\N{REPLACEMENT CHARACTER}", text)
