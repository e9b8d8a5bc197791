"""The dataset's Parquet files: read with whatever is wrong in one line, written with their hash."""

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipkit.atomic import write_table
from clipkit.errors import DatasetError
from clipkit.locations import is_remote, opened, read_bytes


def read_parquet(
    path: Path, expected: str, columns: list[str] | None = None, sha256: str | None = None
) -> pa.Table:
    """Read a Parquet file, or `columns` of it, each value valid; `sha256` is the file's in hex, if known.

    Raises DatasetError, which says what was `expected`.
    """
    try:
        content = read_bytes(path) if is_remote(path) or sha256 is not None else None
        if sha256 is not None and hashlib.sha256(content or b"").hexdigest() != sha256:
            raise DatasetError(
                f"{path}: expected {expected}, of SHA-256 {sha256[:12]}… as the index says, found another "
                "file; restore it, or run `clipkit shards verify --repair`"
            )
        with os.fdopen(opened(path), "rb") if content is None else pa.BufferReader(content) as file:
            table = pq.read_table(file, columns=columns, use_threads=False)
        table.validate(full=True)
        return table
    except FileNotFoundError:
        found = "no such file"
    except (pa.ArrowException, OSError) as error:
        found = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    raise DatasetError(f"{path}: expected {expected}; found: {found}")


def parsed(content: bytes) -> pa.Table | str:
    """Return the table that a Parquet file's bytes are, every value valid; else in a line why not."""
    try:
        table = pq.read_table(pa.BufferReader(content), use_threads=False)
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        return str(error).partition("\n")[0]
    return table


def write_hashed(path: Path, table: pa.Table) -> str:
    """Replace `path` by the table; return the file's SHA-256 in hex."""
    write_table(path, table)
    return hashlib.sha256(path.read_bytes()).hexdigest()
