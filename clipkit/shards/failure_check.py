"""A failure file on its own: is it as the index says, and does it say why?"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from clipkit.shards.faults import Faults
from clipkit.shards.index import IndexEntry
from clipkit.shards.parquet import parsed, read_hashed
from clipkit.shards.schemas import FAILURE_SCHEMA, REASONS


def check_failures(directory: Path, name: str, entry: IndexEntry | None, faults: Faults) -> pa.Table | None:
    """Read a failure file and check it; None if it cannot be read. What is wrong is added to `faults`."""
    try:
        content, sha256 = read_hashed(directory / name, entry.sha256 if entry else None)
    except FileNotFoundError:
        faults.add("missing", name, "expected a failure file, found no such file")
        return None
    except OSError as error:
        faults.add("unreadable", name, f"expected to read the failure file, found: {error.strerror or error}")
        return None
    if entry is not None and sha256 != entry.sha256:
        faults.add("sha256", name, f"expected the SHA-256 {entry.sha256} as the index says, found {sha256}")
    table = parsed(content)
    if isinstance(table, str):
        faults.add("failures", name, f"expected a failure file in Parquet, found: {table}")
        return None
    if not table.schema.equals(FAILURE_SCHEMA):
        words = f"expected the columns {FAILURE_SCHEMA.names}, found {table.schema.names}, or of other types"
        faults.add("failures", name, words)
        return None
    if entry is not None and entry.samples != len(table):
        faults.add(
            "failures", name, f"expected {entry.samples:,} rows as the index says, found {len(table):,}"
        )
    _check_reasons(table, name, faults)
    return table


def _check_reasons(table: pa.Table, name: str, faults: Faults) -> None:
    known = pc.is_in(table["reason"], pa.array(REASONS, pa.string()))
    unknown = table.filter(pc.invert(known))
    if len(unknown):
        found = unknown["reason"][0].as_py()
        faults.add(
            "failures", name, f"expected reasons of a closed set, found {found!r} in {len(unknown):,} rows"
        )
