"""Hashes that a list gives of its pictures: what a URL serves today may be another picture, or an attack.

Domains of old lists are for sale: who buys one serves what he likes under its URLs (Carlini et al.,
"Poisoning Web-Scale Training Datasets is Practical", 2023).
"""

import hashlib
import re
from typing import Any

from clipkit.ingest.rows import UrlRow
from clipkit.shards.text_files import shortened

_ALGORITHMS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
_HEX = re.compile("[0-9a-f]+")


def with_hash(row: UrlRow, value: Any) -> UrlRow:
    """Return the row with the hash that a list's `value` is, or with the problem that it is none."""
    digits = value.strip().lower() if isinstance(value, str) else ""
    if len(digits) in _ALGORITHMS and _HEX.fullmatch(digits):
        return row._replace(expected=digits)
    found = "nothing" if value in (None, "") else shortened(repr(value), 100)
    problem = f"expected an MD5, SHA-1, SHA-256 or SHA-512 in hex digits for --hash-col, found {found}"
    return row._replace(problem=problem)


def mismatch(data: bytes, sha256: str, expected: str) -> str | None:
    """Return in which hash the bytes as served differ from the expected one, None if they are those.

    `sha256` is theirs, `expected` that of a row.
    """
    algorithm = _ALGORITHMS[len(expected)]
    found = (
        sha256 if algorithm == "sha256" else hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
    )
    return None if found == expected else f"expected {algorithm} {expected}, found {found}"
