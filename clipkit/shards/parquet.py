"""The dataset's Parquet files: read with whatever is wrong in one line, written with their hash."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipkit.atomic import replaced, write_parquet
from clipkit.digests import file_sha256
from clipkit.errors import DatasetError
from clipkit.locations import is_remote, opened, read_bytes
from clipkit.processes import at_most_more_memory

MOST_BYTES = 3_000_000_000
"""Of memory for one file's values: a few kB of Parquet can hold terabytes of the same one."""

MAGIC = b"PAR1"
"""What every Parquet file begins with."""

UNREADABLE = (pa.ArrowException, MemoryError, OSError, UnicodeDecodeError)
"""What pyarrow raises for bytes that are no Parquet file, and for columns whose names are no UTF-8."""

REMEDY = "restore it, or run `clipkit shards verify --repair`"
"""What to do about a file of a dataset that is not as it was."""


def read_parquet(
    path: Path,
    expected: str,
    columns: list[str] | None = None,
    sha256: str | None = None,
    remedy: str = REMEDY,
    read: Callable[[], bytes] | None = None,
) -> pa.Table:
    """Read a Parquet file, or `columns` of it, each value valid; `sha256` is the file's in hex, if known.

    With `read`, that gives what is known to be the file's content. Raises DatasetError, which says what was
    `expected`, and the `remedy`.
    """
    try:
        content = read() if read else None
        if content is None and sha256 is not None:
            content, found = read_hashed(path, sha256)
            if found != sha256:
                known = f"of SHA-256 {sha256[:12]}… as the index says"
                raise DatasetError(f"{path}: expected {expected}, {known}, found another file; {remedy}")
        elif content is None and is_remote(path):
            content = read_bytes(path)
        with os.fdopen(opened(path), "rb") if content is None else pa.BufferReader(content) as file:
            return _table(file, columns)
    except FileNotFoundError:
        found = "no such file"
    except UNREADABLE as error:
        found = words_of(error)
    raise DatasetError(f"{path}: expected {expected}, found: {found}; {remedy}")


def read_hashed(path: Path, sha256: str | None) -> tuple[bytes, str]:
    """Return a file's content and its SHA-256 in hex, which should be `sha256` if that is known.

    What comes from an address with another one is asked for once more: was it damaged on its way? Raises
    OSError as reading does.
    """
    content = read_bytes(path)
    found = hashlib.sha256(content).hexdigest()
    if sha256 in (None, found) or not is_remote(path):
        return content, found
    content = read_bytes(path)
    return content, hashlib.sha256(content).hexdigest()


def parsed(content: bytes) -> pa.Table | str:
    """Return the table that a Parquet file's bytes are, every value valid; else in a line why not."""
    try:
        return _table(pa.BufferReader(content), None)
    except UNREADABLE as error:
        return words_of(error) if content.startswith(MAGIC) else f"what begins with {content[:24]!r}"


def readable(content: bytes, most_rows: int) -> tuple[pa.Table, list[str]] | None:
    """Return what a damaged Parquet file of at most so many rows has, and which columns are null for it.

    One flipped bit spoils a column, mostly; of the others some value may be wrong. None if it has nothing.
    """
    columns: dict[str, Any] = {}
    lost = []
    try:
        with (
            at_most_more_memory(MOST_BYTES),
            pq.ParquetFile(pa.BufferReader(content), pre_buffer=False) as parquet,
        ):
            check_names(parquet)
            count, schema = parquet.metadata.num_rows, parquet.schema_arrow
            if not 0 < count <= most_rows:
                return None
            for field in schema:
                try:
                    (column,) = parquet.read([field.name], use_threads=False).columns
                    column.validate(full=True)
                except UNREADABLE:
                    lost.append(field.name)
                    column = pa.nulls(count, field.type)
                columns[field.name] = column
        return pa.table(columns, schema), lost
    except (*UNREADABLE, ValueError):
        return None


def words_of(error: BaseException) -> str:
    """Return in a line why a Parquet file cannot be read."""
    if isinstance(error, MemoryError):
        return f"values that take more than {MOST_BYTES:,} bytes of memory"
    return getattr(error, "strerror", None) or str(error).partition("\n")[0]


def check_names(parquet: pq.ParquetFile) -> None:
    """Raise pa.ArrowInvalid if two of its columns have one name: which of them is meant would be a guess."""
    names = parquet.schema_arrow.names
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise pa.ArrowInvalid(f"two columns of the name {twice[0]!r}")


def _table(file: Any, columns: list[str] | None) -> pa.Table:
    with at_most_more_memory(MOST_BYTES):
        # Threads of pq.read_table outlive it: one that frees our bytes while Python ends aborts the process.
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            check_names(parquet)
            missing = set(columns or ()) - set(parquet.schema_arrow.names)
            if missing:
                raise pa.ArrowInvalid(f"no column {', '.join(sorted(missing))}")
            table = parquet.read(columns, use_threads=False)
        table.validate(full=True)
    return table


def write_hashed(path: Path, table: pa.Table) -> str:
    """Replace `path` by the table; return the SHA-256 in hex of the file as it was written."""
    with replaced(path) as temporary:
        write_parquet(temporary, table)
        return file_sha256(temporary)
