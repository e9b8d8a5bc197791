"""The columns of manifests, failure files, parts and the index, and the closed set of failure reasons."""

from collections.abc import Iterable

import pyarrow as pa

REASONS = {
    "bad_row": False,
    "bad_url": False,
    "scheme": False,
    "address": False,
    "opted_out": False,
    "dns_not_found": False,
    "dns_failed": True,
    "connect": True,
    "tls": False,
    "reset": True,
    "timeout": True,
    "too_slow": True,
    "too_large": False,
    "redirects": False,
    "http_4xx": False,
    "rate_limited": True,
    "http_5xx": True,
    "protocol": False,
    "truncated": True,
    "empty": False,
    "not_an_image": False,
    "hash_mismatch": False,
    "too_many_pixels": False,
    "broken_image": False,
    "too_small": False,
    "aspect": False,
    "worker_crashed": True,
    "lost": True,
}
"""Why a URL gave no sample → whether trying again later may help."""

_SAMPLE_FIELDS = [
    ("url", pa.string()),
    ("caption", pa.string()),
    ("source", pa.string()),
    ("source_row", pa.int64()),
    ("original_format", pa.string()),
    ("ext", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("original_width", pa.int32()),
    ("original_height", pa.int32()),
    ("original_bytes", pa.int64()),
    ("sha256", pa.string()),
    ("dhash", pa.uint64()),
    ("image_offset", pa.int64()),
    ("caption_offset", pa.int64()),
    ("image_bytes", pa.int32()),
    ("caption_bytes", pa.int32()),
]

MANIFEST_SCHEMA = pa.schema([("key", pa.string()), *_SAMPLE_FIELDS])

FAILURE_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("source_row", pa.int64()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("http_status", pa.int32()),
        ("attempts", pa.int32()),
        ("retryable", pa.bool_()),
    ]
)

_FAILURE_ONLY = [field for field in FAILURE_SCHEMA if field.name not in dict(_SAMPLE_FIELDS)]

PART_SCHEMA = pa.schema([*_SAMPLE_FIELDS, *_FAILURE_ONLY])
"""One row a URL in source order: a sample if `reason` is null, else a failure."""

FIXED_COLUMNS = frozenset(MANIFEST_SCHEMA.names) | frozenset(PART_SCHEMA.names)
"""The names that no column kept from a source can have."""


def part_schema(kept: Iterable[pa.Field] = ()) -> pa.Schema:
    """Return PART_SCHEMA with the columns kept from the source behind it.

    Raises ValueError if a kept column has one of FIXED_COLUMNS' names, or two have the same.
    """
    extra = [pa.field(column.name, column.type) for column in kept]
    names = [column.name for column in extra]
    if FIXED_COLUMNS & set(names) or len(set(names)) < len(names):
        raise ValueError(f"the kept columns {names} need names of their own, none of {sorted(FIXED_COLUMNS)}")
    return pa.schema([*PART_SCHEMA, *extra])


def manifest_schema(part: pa.Schema) -> pa.Schema:
    """Return the manifest's columns for samples of parts with this schema: fixed ones, then those kept."""
    kept = [pa.field(column.name, column.type) for column in part if column.name not in FIXED_COLUMNS]
    return pa.schema([*MANIFEST_SCHEMA, *kept])


def begins_as_manifest(schema: pa.Schema) -> bool:
    """Tell whether the first columns are a manifest's; others may follow."""
    return bool(pa.schema(list(schema)[: len(MANIFEST_SCHEMA)]).equals(MANIFEST_SCHEMA))


INDEX_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),  # "shard" or "failures"
        ("name", pa.string()),  # "000000.tar" or "failures/000000.parquet"
        ("samples", pa.int64()),  # rows of the manifest or of the failure file
        ("bytes", pa.int64()),
        ("sha256", pa.string()),  # of the tar or of the failure file
        ("manifest_sha256", pa.string()),  # null for a failure file
    ]
)
