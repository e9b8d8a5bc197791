"""How many of a dataset's pictures are longer than a ratio, by a few of its manifests."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clipkit.errors import NoDatasetError
from clipkit.locations import each_of, is_remote, location, scheme_of
from clipkit.shards.index import IndexEntry, read_index
from clipkit.shards.parquet import read_parquet

_SIDES = ["original_width", "original_height", "width", "height"]
_MANIFESTS = 20


class Aspects(NamedTuple):
    """Of `looked_at` pictures, `longer` have a long side of more than so many short sides."""

    looked_at: int
    longer: int


def count_longer(source: str, aspect: float) -> Aspects | None:
    """Look through 20 manifests, spread evenly, of the dataset directory `source`, which may be an address.

    Sides are those as served, where the manifest knows them. Returns None for what is no dataset of
    clipkit's. Raises DatasetError for a manifest that cannot be read.
    """
    directory = None if scheme_of(source) is None and "::" in source else location(source)
    try:
        shards = read_index(directory).shards if directory else []
    except NoDatasetError:
        shards = []
    if directory is None or not shards:
        return None
    looked_at = longer = 0

    def sides(shard: IndexEntry) -> pa.Table:
        manifest = (directory / shard.name).with_suffix(".parquet")
        return read_parquet(manifest, "the shard's manifest", _SIDES, shard.manifest_sha256)

    spread = np.unique(np.linspace(0, len(shards) - 1, _MANIFESTS).astype(int))
    for table in each_of(sides, [shards[place] for place in spread], remote=is_remote(directory)):
        served_width, served_height, width, height = (
            table[name].to_numpy().astype(np.int64) for name in _SIDES
        )
        known = (served_width > 0) & (served_height > 0)
        widths, heights = np.where(known, served_width, width), np.where(known, served_height, height)
        looked_at += len(widths)
        longer += int((np.maximum(widths, heights) > aspect * np.minimum(widths, heights)).sum())
    return Aspects(looked_at, longer)


def warning_of_longer(source: str, aspect: float, why: str) -> str | None:
    """Return a line that says how to leave such pictures out, None if none were found. Raises as above."""
    found = count_longer(source, aspect)
    if found is None or not found.longer:
        return None
    wide, high = "original_width", "original_height"
    condition = f"greatest({wide}, {high}) <= {aspect:g} * least({wide}, {high})"
    return (
        f"warning: {source}: of {found.looked_at:,} pictures looked at, {found.longer:,} are over {aspect:g} "
        f"times as long as wide; {why}: `clipkit ingest … --max-aspect {aspect:g}`, or "
        f"`clipkit shards filter {source} --where '{condition}' --out NEW`"
    )
