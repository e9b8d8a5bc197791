"""JSON that strangers wrote."""

import json
from typing import Any


def parsed_json(text: str | bytes) -> Any:
    """Return the value that `text` stands for. Raises ValueError for what is no JSON, or nested too deeply.

    Python's own parser raises RecursionError for the latter, of which its callers would not think.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
