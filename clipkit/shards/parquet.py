"""Reading the dataset's Parquet files, whatever is wrong with them in one line."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipkit.errors import DatasetError


def read_parquet(path: Path, expected: str, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or `columns` of it. Raises DatasetError, saying what was `expected`."""
    try:
        return pq.read_table(path, columns=columns, use_threads=False)
    except FileNotFoundError:
        found = "no such file"
    except (pa.ArrowException, OSError) as error:
        found = str(error).partition("\n")[0]
    raise DatasetError(f"{path}: expected {expected}; found: {found}")
