"""What a file is known by: the SHA-256 of its bytes."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises OSError as the file system does."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
