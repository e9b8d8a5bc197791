"""CRC-32s of a shard's pictures, beside the columns of its manifest: they tell which picture changed."""

import base64
import zlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

_KEY = b"clipkit.image_crc32"


def with_checksums(manifest: pa.Table, checksums: Sequence[int]) -> pa.Table:
    """Return the manifest with a picture's CRC-32 for each row, in its file's key-value metadata."""
    packed = base64.b85encode(np.array(checksums, "<u4").tobytes())
    return manifest.replace_schema_metadata({_KEY: packed})


def checksums_of(manifest: pa.Table) -> list[int] | None:
    """Return the pictures' CRC-32s; None where there are none, as in manifests of older releases."""
    try:
        packed = base64.b85decode((manifest.schema.metadata or {})[_KEY])
    except (KeyError, ValueError):
        return None
    return np.frombuffer(packed, "<u4").tolist() if len(packed) == 4 * len(manifest) else None


def checksum(picture: bytes) -> int:
    """Return the CRC-32 of a stored picture's bytes, as zlib has it."""
    return zlib.crc32(picture)
