"""A shard's manifest on its own: is it whole, of this shard, and possible?"""

import re
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from clipkit.shards.faults import Faults
from clipkit.shards.format import SHARD_SAMPLES, sample_key
from clipkit.shards.index import IndexEntry
from clipkit.shards.layout import Row, placed
from clipkit.shards.parquet import parsed, read_hashed
from clipkit.shards.schemas import MANIFEST_SCHEMA, begins_as_manifest

_EXT = re.compile(rb"[0-9a-z]{1,16}")
_PLACES = ("image_offset", "image_bytes", "caption_offset", "caption_bytes")
_NEEDED = ("key", "caption", "ext", *_PLACES)


class CheckedManifest(NamedTuple):
    """A manifest that can be read: its table, its file's SHA-256, and per row what the tar follows from.

    `rows` is None where the tar does not follow from it.
    """

    table: pa.Table
    sha256: str
    rows: list[Row] | None


def check_manifest(path: Path, entry: IndexEntry | None, faults: Faults) -> CheckedManifest | None:
    """Read a manifest and check it against the index's entry and by itself; None if it cannot be read.

    Raises OSError as reading does, but a manifest that is missing is a fault.
    """
    name = path.name
    try:
        content, sha256 = read_hashed(path, entry.manifest_sha256 if entry else None)
    except FileNotFoundError:
        faults.add("missing", name, "expected the shard's manifest, found no such file")
        return None
    if entry is not None and sha256 != entry.manifest_sha256:
        words = f"expected the SHA-256 {entry.manifest_sha256} as the index says, found {sha256}"
        faults.add("sha256", name, words)
    table = parsed(content)
    if isinstance(table, str):
        faults.add("manifest", name, f"expected a manifest in Parquet, found: {table}")
        return None
    if not _has_columns(table, name, faults):
        return None
    return CheckedManifest(table, sha256, _rows(table, path, entry, faults))


def _has_columns(table: pa.Table, name: str, faults: Faults) -> bool:
    if begins_as_manifest(table.schema):
        return True
    missing = [field.name for field in MANIFEST_SCHEMA if field not in list(table.schema)]
    words = (
        f"expected a manifest's columns, found none such as {missing[0]}" if missing else "in another order"
    )
    faults.add("manifest", name, words)
    return False


def _rows(table: pa.Table, path: Path, entry: IndexEntry | None, faults: Faults) -> list[Row] | None:
    name, shard = path.name, int(path.stem)
    if not 0 < len(table) <= SHARD_SAMPLES or (entry is not None and entry.samples != len(table)):
        wanted = f"{entry.samples:,} rows as the index says" if entry else f"1 to {SHARD_SAMPLES:,} rows"
        faults.add("manifest", name, f"expected {wanted}, found {len(table):,}")
    if nulls := [column for column in _NEEDED if table[column].null_count]:
        faults.add("manifest", name, f"expected a value in every row of {nulls[0]!r}, found nulls")
        return None
    if not _keys_are_right(table, name, shard, faults):
        return None
    columns = [table[column].cast(pa.binary()).to_pylist() for column in ("ext", "caption")]
    sizes = table["image_bytes"].to_pylist()
    if not all(map(_EXT.fullmatch, columns[0])) or min(sizes, default=0) < 0 or len(table) > SHARD_SAMPLES:
        faults.add("manifest", name, "expected extensions such as jpg and sizes, found impossible ones")
        return None
    rows = [Row(ext.decode(), size, caption) for ext, caption, size in zip(*columns, sizes, strict=True)]
    _check_places(table, rows, name, faults)
    _check_sizes(table, name, faults)
    return rows


def _keys_are_right(table: pa.Table, name: str, shard: int, faults: Faults) -> bool:
    wanted = pa.array([sample_key(shard, row).encode() for row in range(len(table))], pa.binary())
    keys = table["key"].cast(pa.binary()).combine_chunks()
    wrong = pc.fill_null(pc.not_equal(keys, wanted), True)
    if not pc.any(wrong).as_py():
        return True
    row = pc.index(wrong, True).as_py()
    found = keys[row].as_py().decode(errors="replace")
    several = f" and {count - 1:,} more wrong ones" if (count := pc.sum(wrong).as_py()) > 1 else ""
    words = f"row {row}: expected the key {sample_key(shard, row)}, found {found[:40]!r}{several}"
    if re.fullmatch(r"\d{9}", found) and int(found) // SHARD_SAMPLES != shard:
        words += f"; is it the manifest of shard {int(found) // SHARD_SAMPLES:06d}?"
    faults.add("key", name, words)
    return False


def _check_places(table: pa.Table, rows: list[Row], name: str, faults: Faults) -> None:
    columns = zip(*(table[column].to_pylist() for column in _PLACES), strict=True)
    for row, (found, wanted) in enumerate(zip(columns, placed(rows), strict=True)):
        if found != wanted:
            words = f"row {row}: expected the byte ranges {tuple(wanted)} of {_PLACES}, found {found}"
            faults.add("manifest", name, words, member=table["key"][row].as_py())
            return  # those behind it follow from it


def _check_sizes(table: pa.Table, name: str, faults: Faults) -> None:
    for column in ("width", "height"):
        if pc.any(pc.less_equal(table[column], 0)).as_py():
            faults.add("manifest", name, f"expected a {column} of at least 1 pixel, found a smaller one")
    hashes = table["sha256"]
    if not pc.all(pc.match_substring_regex(hashes, r"^[0-9a-f]{64}$")).as_py() and hashes.null_count < len(
        hashes
    ):
        faults.add("manifest", name, "expected SHA-256s of 64 hex digits in column sha256, found others")
