"""A manifest made anew from its tar, and from what is right in the old one."""

import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from clipkit.locations import opened
from clipkit.shards.checksums import checksum, with_checksums
from clipkit.shards.format import SHARD_SAMPLES, sample_key
from clipkit.shards.picture_check import picture_fault, picture_size
from clipkit.shards.schemas import MANIFEST_SCHEMA, manifest_schema
from clipkit.shards.verify_shard import How
from clipkit.shards.walk import Found, walk

_PLACES = ("image_offset", "image_bytes", "caption_offset", "caption_bytes")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NEARLY_ALL = 0.9
Values = dict[str, Any]


class Remade(NamedTuple):
    """A new manifest, or why there is none: the first thing that is wrong with the tar."""

    manifest: pa.Table | None
    broken: str | None
    unknown: int = 0


def remake(path: Path, name: str, how: How, old: Sequence[pa.Table], kept: Sequence[pa.Field]) -> Remade:
    """Make the manifest of the tar at `path`, shard `name`, which is read as it is and not changed.

    A row of one of the `old` manifests is kept where it is the sample's (see `_known`), but the caption and
    the picture's size are the tar's, and an impossible hash or record becomes null. For other samples what
    the tar does not tell is null, and `url` empty; `kept` are the columns behind the manifest's own. Raises
    OSError as reading does.
    """
    shard = int(Path(name).stem)
    descriptor = opened(path)
    try:
        walked = walk(descriptor, os.fstat(descriptor).st_size, name, None)
        if walked.faults.listed:
            return Remade(None, walked.faults.listed[0].line())
        numbers = [sample.number for sample in walked.samples]
        if numbers != list(range(len(numbers))) or not 0 < len(numbers) <= SHARD_SAMPLES:
            return Remade(None, f"{name}: expected 1 to {SHARD_SAMPLES:,} samples, found {len(numbers):,}")
        rows, checksums, unknown = [], [], 0
        known = _known(old, shard, walked.samples)
        for sample in walked.samples:
            data = os.pread(descriptor, sample.place.image_bytes, sample.place.image_offset)
            if how.decode and (fault := picture_fault(data, None, None, how.max_pixels)):
                key = sample_key(shard, sample.number)
                return Remade(None, f"{name}, {key}.{sample.ext}: {fault}")
            row = _row(shard, sample, data, known, as_served=how.as_served)
            unknown += row.get("source_row") is None
            rows.append(row)
            checksums.append(checksum(data))
    finally:
        os.close(descriptor)
    schema = manifest_schema(pa.schema([*MANIFEST_SCHEMA, *kept]))
    return Remade(with_checksums(pa.Table.from_pylist(rows, schema), checksums), None, unknown)


def _known(old: Sequence[pa.Table], shard: int, samples: Sequence[Found]) -> dict[str, Values]:
    """Return the rows of manifests that are of these samples, by key.

    They are those with the sample's byte ranges; and all of a manifest of which nearly all are, for it is
    this tar's, with a few values at fault.
    """
    known: dict[str, Values] = {}
    keys = [sample_key(shard, sample.number) for sample in samples]
    for table in old:
        rows = {row["key"]: row for row in table.to_pylist()}
        fit = {
            key: row for key, sample in zip(keys, samples, strict=True) if (row := _fits(rows, key, sample))
        }
        if len(table) == len(keys) and len(fit) >= _NEARLY_ALL * len(keys):
            fit = dict(zip(keys, table.to_pylist(), strict=True))
        known |= {key: row for key, row in fit.items() if key not in known}
    return known


def _fits(rows: dict[str, Values], key: str, sample: Found) -> Values | None:
    row = rows.get(key, {})
    fits = [row.get(name, -1) in (None, place) for name, place in zip(_PLACES, sample.place, strict=True)]
    return row if all(fits) else None


def _row(shard: int, sample: Found, data: bytes, known: dict[str, Values], *, as_served: bool) -> Values:
    key = sample_key(shard, sample.number)
    row: Values = dict(known.get(key, {"url": ""}))
    row["url"] = row["url"] or ""
    row |= {"key": key, "ext": sample.ext, "caption": sample.caption.decode()}
    row |= dict(zip(_PLACES, sample.place, strict=True))
    if not _SHA256.fullmatch(row.get("sha256") or ""):
        row["sha256"] = None
    if (row.get("source_row") or 0) < 0:
        row["source_row"] = None
    with suppress(Exception):  # hostile pictures raise anything; then the old size stays, or none
        row["width"], row["height"] = picture_size(data)
    if as_served:
        row["sha256"], row["original_bytes"] = hashlib.sha256(data).hexdigest(), len(data)
    return row
