"""The dataset's Parquet files: read with whatever is wrong in one line, written with their hash."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipkit.atomic import write_table
from clipkit.errors import DatasetError
from clipkit.locations import is_remote


def read_parquet(path: Path, expected: str, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or `columns` of it. Raises DatasetError, saying what was `expected`."""
    try:
        place = pa.BufferReader(path.read_bytes()) if is_remote(path) else path
        return pq.read_table(place, columns=columns, use_threads=False)
    except FileNotFoundError:
        found = "no such file"
    except (pa.ArrowException, OSError) as error:
        found = str(error).partition("\n")[0]
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
