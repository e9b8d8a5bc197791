"""Files of keys: which samples of a dataset are meant, one key a line or the column `key` of Parquet."""

import hashlib
import io
from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clipkit.errors import ConfigError
from clipkit.locations import read_bytes
from clipkit.shards.format import SHARD_SAMPLES
from clipkit.shards.hamming import Places
from clipkit.shards.index import IndexEntry
from clipkit.shards.original import Original
from clipkit.shards.parquet import MAGIC, parsed

_COLUMN = "key"
DATASET = b"clipkit.dataset"
"""In the metadata of a Parquet file of keys: the fingerprint of the dataset that they are of."""


class Keys(NamedTuple):
    """The samples that a file names: their `places` in the dataset's order, and the file's SHA-256 in hex."""

    places: Places
    sha256: str


def read_keys(path: Path, original: Original, option: str) -> Keys:
    """Read a file of keys of a dataset; a key may stand in it more than once.

    Raises ConfigError, which names the `option`, for what is no such file, for keys of no sample, and for a
    list that `dedup` wrote of another dataset: keys of nine digits are in every one.
    """
    try:
        content = read_bytes(path)
    except OSError as error:
        raise _refused(option, path, f"that it cannot be read: {error.strerror or error}") from None
    found = _of_parquet(content, original) if content.startswith(MAGIC) else _of_text(content)
    if isinstance(found, str):
        raise _refused(option, path, found)
    if not len(found):
        raise _refused(option, path, "none")
    places = _places(found, original.shards)
    unknown = np.flatnonzero(places < 0)
    if len(unknown):
        words = f"{len(unknown):,} of no sample of this dataset, the first is {int(found[unknown[0]]):09d}"
        raise _refused(option, path, words + ": is it of another one? A derived dataset has keys of its own")
    return Keys(places, hashlib.sha256(content).hexdigest())


def _of_text(content: bytes) -> Places | str:
    found = array("q")
    for number, line in enumerate(io.BytesIO(content.removeprefix(b"\xef\xbb\xbf")), 1):
        key = line.strip()
        if key.isdigit() and len(key) <= 9:
            found.append(int(key))
        elif key and not (number == 1 and key.decode(errors="replace") == _COLUMN):
            return f"{key[:40].decode(errors='replace')!r} in line {number:,}"
    return np.frombuffer(found, dtype=np.int64)


def _of_parquet(content: bytes, original: Original) -> Places | str:
    table = parsed(content)
    if isinstance(table, str):
        return f"Parquet that cannot be read: {table}"
    if (table.schema.metadata or {}).get(DATASET, of := original.fingerprint.encode()) != of:
        return f"those of another dataset than {original.directory}, where they mean other samples"
    if _COLUMN not in table.column_names:
        return f"Parquet with the columns {', '.join(table.column_names)}"
    try:
        keys = table[_COLUMN].cast(pa.int64())
    except pa.ArrowException:
        return f"values of the column {_COLUMN} that are no keys"
    if keys.null_count:
        return f"{keys.null_count:,} nulls in the column {_COLUMN}"
    return np.asarray(keys.to_numpy(), dtype=np.int64)


def _places(numbers: Places, shards: list[IndexEntry]) -> Places:
    """Return where in the dataset's order the samples of these numbers stand, -1 for those of none."""
    names = np.array([int(shard.name[:6]) for shard in shards], dtype=np.int64)
    sizes = np.array([shard.samples for shard in shards], dtype=np.int64)
    order = np.argsort(names)
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    wanted, rows = np.divmod(numbers, SHARD_SAMPLES)
    which = order[np.minimum(np.searchsorted(names[order], wanted), len(names) - 1)]
    is_there = (names[which] == wanted) & (rows < sizes[which])
    return np.where(is_there, begins[which] + rows, -1)


def _refused(option: str, path: Path, found: str) -> ConfigError:
    return ConfigError(
        f"{option} {path}: expected keys of nine digits, one a line, or the column {_COLUMN} of Parquet, "
        f"found {found}"
    )
