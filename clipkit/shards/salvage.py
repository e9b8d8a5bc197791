"""What is left of manifests that are not as they must be, and the failures that lost samples become."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipkit.locations import downloaded, opened, read_bytes
from clipkit.shards.failure_check import check_failures
from clipkit.shards.faults import Faults
from clipkit.shards.format import SHARD_SAMPLES, sample_key
from clipkit.shards.index import IndexEntry
from clipkit.shards.manifest_check import check_manifest
from clipkit.shards.parquet import readable
from clipkit.shards.records import Rows
from clipkit.shards.restate import AS_FOUND
from clipkit.shards.schemas import FAILURE_SCHEMA, MANIFEST_SCHEMA, REASONS, begins_as_manifest

LOST = "lost"
_RECORD = ("source", "source_row")
_MOST_FAILURES = 1_000_000


class OldManifests:
    """What can be read of the manifests of some shards: `own` by the name of the tar that they lie beside.

    `kept` are the columns behind the manifest's own, by the first of the `whole` shards where there is one.
    `damaged` says, by the same names, of manifests that can be read in part what of them is lost.
    """

    def __init__(self, directory: Path, shards: Sequence[str], whole: Sequence[str]):
        self.own: dict[str, pa.Table] = {}
        self.damaged: dict[str, str] = {}
        self._by_number: dict[int, list[pa.Table]] = {}
        for name in shards:
            self._read((directory / name).with_suffix(".parquet"))
        schemas = []
        for name in whole[:1]:  # opened by us: of a file's name pyarrow takes UTF-8 alone
            with (
                downloaded((directory / name).with_suffix(".parquet")) as path,
                os.fdopen(opened(path), "rb") as file,
            ):
                schemas.append(pq.read_schema(file))
        schemas += [table.schema for table in self.own.values()]
        self.kept: list[pa.Field] = list(schemas[0])[len(MANIFEST_SCHEMA) :] if schemas else []

    def of(self, shard: str) -> list[pa.Table]:
        """Return those whose first key is one of the shard's, the one beside it first."""
        return self._by_number.get(int(shard[:6]), [])

    def says_the_same(self, shard: str, made: pa.Table) -> bool:
        """Tell whether the one beside it is what was `made` anew, its checksums as well if it has any."""
        own = self.own[shard]
        return bool(made.equals(own)) and (own.schema.metadata or None) in (None, made.schema.metadata)

    def _read(self, path: Path) -> None:
        table = None
        with suppress(OSError):
            manifest = check_manifest(path, None, Faults())
            table = manifest.table if manifest else self._part(path)
        if table is None:
            return
        self.own[path.with_suffix(".tar").name] = table
        key = (table["key"].slice(0, 1).to_pylist() or [""])[0] or ""
        number = int(key) // SHARD_SAMPLES if key.isascii() and key.isdigit() else -1
        tables = self._by_number.setdefault(number, [])
        tables.insert(0 if number == int(path.stem) else len(tables), table)

    def _part(self, path: Path) -> pa.Table | None:
        found = readable(read_bytes(path), SHARD_SAMPLES)
        if found is None or not begins_as_manifest(found[0].schema):
            return None
        table, lost = found
        if "key" in lost:  # which follows from the rest
            keys = pa.array([sample_key(int(path.stem), row) for row in range(len(table))])
            table = table.set_column(0, MANIFEST_SCHEMA.field("key"), keys)
        self.damaged[path.with_suffix(".tar").name] = f"{', '.join(lost)} cannot be read; the rest is "
        return table


class OldFailures(NamedTuple):
    """What a failure file has, with reasons of known names: `why` it is not as it was written, if so, or why
    there is nothing; whether the table is other than the file, and the file damaged; how many rows are
    `gone`, of no possible record.
    """

    table: pa.Table | None
    why: str = ""
    is_other: bool = False
    is_damaged: bool = False
    gone: int = 0

    def without(self, again: Rows) -> tuple[pa.Table, int]:
        """Return the table without the rows at these places, and how many are gone with those before."""
        assert self.table is not None
        stays = pa.array(~np.isin(np.arange(len(self.table)), again))
        return self.table.filter(stays), self.gone + len(again)


def old_failures(directory: Path, name: str, entry: IndexEntry | None) -> OldFailures:
    """Read a failure file, or what can be read of it while its records can be told."""
    faults = Faults()
    table = check_failures(directory, name, entry, faults)
    if table is not None:
        why = AS_FOUND if faults.counts["sha256"] or entry is None else ""
        return _mended(table, why, is_damaged=False)
    found = None
    with suppress(OSError):
        found = readable(read_bytes(directory / name), entry.samples if entry else _MOST_FAILURES)
    if found is None or not found[0].schema.equals(FAILURE_SCHEMA):
        return OldFailures(None, faults.listed[0].line())
    table, lost = found
    if (entry and len(table) != entry.samples) or set(_RECORD) & set(lost):
        return OldFailures(None, faults.listed[0].line())
    if "retryable" in lost:  # which follows from the reason
        retryable = pa.array([REASONS.get(reason, True) for reason in table["reason"].to_pylist()])
        table = table.set_column(len(table.column_names) - 1, FAILURE_SCHEMA.field("retryable"), retryable)
    return _mended(table, f"{', '.join(lost)} cannot be read; the rest is {AS_FOUND}", is_damaged=True)


def _mended(table: pa.Table, why: str, *, is_damaged: bool) -> OldFailures:
    possible = pc.and_(
        table["source"].is_valid(), pc.fill_null(pc.greater_equal(table["source_row"], 0), False)
    )
    kept = table.filter(possible) if why else table
    gone = len(table) - len(kept)
    known = with_known_reasons(kept)
    is_other = is_damaged or gone > 0 or known is not None
    return OldFailures(kept if known is None else known, why, is_other, is_damaged, gone)


def with_known_reasons(table: pa.Table) -> pa.Table | None:
    """Return failures of which some have a reason of no known name with "lost" for it; None if all have."""
    known = pc.fill_null(pc.is_in(table["reason"], pa.array(REASONS, pa.string())), False)
    if pc.all(known).as_py():
        return None
    columns = {"reason": pc.if_else(known, table["reason"], LOST)}
    columns |= {"retryable": pc.if_else(known, table["retryable"], True)}
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), FAILURE_SCHEMA.field(name), column)
    return table


def without_records(table: pa.Table, again: Rows) -> pa.Table:
    """Return a manifest of which the samples at these places, of those with a record, have none."""
    if not len(again):
        return table
    known = np.flatnonzero(pc.and_(table["source"].is_valid(), table["source_row"].is_valid()))
    stays = pa.array(~np.isin(np.arange(len(table)), known[again]))
    for name in _RECORD:
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(name), pc.if_else(stays, table[name], None))
    return table


def lost_failures(table: pa.Table, detail: str) -> pa.Table:
    """Return the rows of a manifest, or of a table of records, as failures that may pass."""
    count = len(table)
    columns: dict[str, Any] = {
        name: table[name] if name in table.column_names else pa.nulls(count)
        for name in ("source", "source_row", "url", "caption")
    }
    columns |= {"reason": [LOST] * count, "detail": [detail] * count, "http_status": pa.nulls(count)}
    columns |= {"attempts": [0] * count, "retryable": [True] * count}
    return pa.table(columns).cast(FAILURE_SCHEMA)
