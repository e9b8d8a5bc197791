"""The seal of dataset.json: its own SHA-256, and that of the index, which no other file vouches for."""

import hashlib
import json
from pathlib import Path
from typing import Any

from clipkit.atomic import write_json
from clipkit.locations import decoded

SEAL = "sha256"
INDEX_SEAL = "index_sha256"
"""The SHA-256 of a finished dataset's index.parquet. What was written before there were seals has neither."""


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Replace `path` by `content` as JSON, with its seal. Raises OSError as the file system does."""
    content = json.loads(decoded(json.dumps(content, ensure_ascii=False)))  # as it will be read
    write_json(path, content | {SEAL: _sha256(content)})


def is_sealed(content: dict[str, Any]) -> bool:
    """Tell whether what was read is as it was written, or from before there were seals."""
    if SEAL not in content:
        return INDEX_SEAL not in content
    try:
        return bool(content[SEAL] == _sha256(content))
    except RecursionError:
        return False


def _sha256(content: dict[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
