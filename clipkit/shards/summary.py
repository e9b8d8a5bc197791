"""What a dataset holds, counted from its index, manifests and failure files."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipkit.shards.dataset import DATASET_FILE, Parent, is_unfinished, read_dataset
from clipkit.shards.failure_files import count_reasons
from clipkit.shards.index import read_index
from clipkit.shards.parquet import read_parquet
from clipkit.tables import size, table

_COUNTED = ("width", "height", "image_bytes", "caption_characters")
_MANIFEST_COLUMNS = ("width", "height", "image_bytes", "caption", "sha256")


class Spread(NamedTuple):
    """The least, median and greatest of a column."""

    least: int
    median: int
    greatest: int


class Summary(NamedTuple):
    """Counts of a dataset. `records` = `samples` + `failures`: each source record is one or the other."""

    directory: str
    shards: int
    samples: int
    failures: int
    bytes: int
    reasons: dict[str, int]
    width: Spread
    height: Spread
    image_bytes: Spread
    caption_characters: Spread
    distinct_images: int
    distinct_captions: int
    finished: bool
    parent: Parent | None = None

    @property
    def records(self) -> int:
        """How many source records the dataset accounts for."""
        return self.samples + self.failures

    def as_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        spreads = {name: getattr(self, name)._asdict() for name in _COUNTED}
        parent = self.parent.model_dump() if self.parent else None
        return {"records": self.records, **self._asdict(), **spreads, "parent": parent}

    def lines(self) -> str:
        """Return the counts as aligned tables."""
        counts = [(name, f"{getattr(self, name):,}") for name in ("records", "samples", "failures", "shards")]
        counts += [("bytes", size(self.bytes))]
        counts += [("different images", f"{self.distinct_images:,}")]
        counts += [("different captions", f"{self.distinct_captions:,}")]
        spreads = [(name.replace("_", " "), *getattr(self, name)) for name in _COUNTED]
        blocks = [] if self.finished else ["INGEST HAS NOT FINISHED: these are the counts so far"]
        blocks += [table(counts), table(spreads, ("", "least", "median", "most"))]
        if self.parent:
            blocks += [_origin(self.parent)]
        if self.reasons:
            blocks += [table(list(self.reasons.items()), ("failures by cause", "records"))]
        return "\n\n".join(blocks)


def summarize(directory: Path) -> Summary:
    """Count what the dataset in `directory` holds. Raises DatasetError if it is not one, or damaged."""
    index = read_index(directory)
    index.check_files(directory)
    counts: dict[str, list[np.ndarray]] = {name: [] for name in _COUNTED}
    images: list[np.ndarray] = []
    captions: list[np.ndarray] = []
    for shard in index.shards:
        manifest = (directory / shard.name).with_suffix(".parquet")
        table = read_parquet(manifest, "the shard's manifest", [*_MANIFEST_COLUMNS])
        for name in _COUNTED:
            column = pc.utf8_length(table["caption"]) if name == "caption_characters" else table[name]
            counts[name].append(column.to_numpy())
        images.append(_hashes(table["sha256"]))
        captions.append(_hashes(table["caption"]))
    spreads = {name: _spread(np.concatenate(values or [np.zeros(0)])) for name, values in counts.items()}
    return Summary(
        directory=str(directory),
        shards=len(index.shards),
        samples=sum(shard.samples for shard in index.shards),
        failures=sum(entry.samples for entry in index.failure_files),
        bytes=sum(shard.bytes for shard in index.shards),
        reasons=dict(count_reasons(directory).most_common()),
        **spreads,
        distinct_images=_distinct(images),
        distinct_captions=_distinct(captions),
        finished=not is_unfinished(directory),
        parent=read_dataset(directory).description.parent if (directory / DATASET_FILE).exists() else None,
    )


def _origin(parent: Parent) -> str:
    rows: list[tuple[str, str | int]] = [
        ("samples", parent.samples),
        ("failures, not copied", parent.failures),
    ]
    rows += [(f"left out: {cause}", count) for cause, count in parent.left_out.items()]
    settings = ", ".join(f"{name} {value}" for name, value in parent.settings.items() if value)
    made = f"made from {parent.name} by {parent.command}{f': {settings}' if settings else ''}"
    return table(rows, (made, ""))


def _hashes(texts: pa.ChunkedArray) -> np.ndarray:
    # 64 bits a text: in a billion of them about 0.03 are expected to coincide by chance.
    return np.fromiter((hash(text) for text in texts.to_pylist()), np.int64, len(texts))


def _distinct(hashes: list[np.ndarray]) -> int:
    return len(np.unique(np.concatenate(hashes or [np.zeros(0)])))


def _spread(values: np.ndarray) -> Spread:
    if not len(values):
        return Spread(0, 0, 0)
    return Spread(int(values.min()), int(np.median(values)), int(values.max()))
