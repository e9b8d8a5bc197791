"""Manifests and an index of millions of samples, without their tars: what choosing among them reads."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipkit.shards.dataset import Dataset, DatasetDescription, Totals
from clipkit.shards.format import SHARD_SAMPLES, sample_key, shard_name
from clipkit.shards.index import Index, IndexEntry
from clipkit.shards.parquet import write_hashed
from clipkit.shards.schemas import MANIFEST_SCHEMA


def make_manifests(directory: Path, rows: int, dhashes: np.ndarray | None = None, repeated: int = 0) -> None:
    """Write a dataset of so many samples, of which the last `repeated` have the bytes of the first ones.

    URLs, captions and SHA-256s are of usual lengths and all different, `dhashes` random ones unless given.
    """
    draws = np.random.default_rng(0)
    words = "a the of photo in stock red dog house city with on beach view old".split()  # noqa: SIM905
    index = Index()
    for shard in range(rows // SHARD_SAMPLES):
        first = shard * SHARD_SAMPLES
        lengths = draws.integers(1, 20, SHARD_SAMPLES).tolist()
        captions = [
            " ".join([words[word] for word in draws.integers(0, len(words), n).tolist()]) for n in lengths
        ]
        ints = draws.integers(64, 1024, SHARD_SAMPLES)
        columns: dict[str, Any] = {
            field.name: ints for field in MANIFEST_SCHEMA if pa.types.is_integer(field.type)
        }
        pages = draws.integers(1 << 60, size=SHARD_SAMPLES).tolist()
        numbers = [row % max(1, rows - repeated) for row in range(first, first + SHARD_SAMPLES)]
        drawn = draws.integers(0, 2**64, SHARD_SAMPLES, dtype=np.uint64)
        columns |= {
            "key": [sample_key(shard, row) for row in range(SHARD_SAMPLES)],
            "url": [f"https://images.example.com/{page:x}.jpg" for page in pages],
            "caption": captions,
            "source": ["list.tsv"] * SHARD_SAMPLES,
            "source_row": np.arange(first, first + SHARD_SAMPLES),
            "original_format": ["jpeg"] * SHARD_SAMPLES,
            "ext": ["jpg"] * SHARD_SAMPLES,
            "sha256": [hashlib.sha256(b"%d" % number).hexdigest() for number in numbers],
            "dhash": drawn if dhashes is None else dhashes[numbers],
        }
        table = pa.table({name: columns[name] for name in MANIFEST_SCHEMA.names}, schema=MANIFEST_SCHEMA)
        name = shard_name(shard)
        digest = write_hashed(directory / f"{name}.parquet", table)
        index.entries.append(IndexEntry("shard", f"{name}.tar", SHARD_SAMPLES, 1, "0" * 64, digest))
    index.write(directory)
    totals = Totals(records=rows, samples=rows, failures=0, shards=len(index.shards))
    Dataset(directory, DatasetDescription(sources=(), image={})).finish(totals)
