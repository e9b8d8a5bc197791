"""`clipkit shards dedup`: pictures that are there twice, or in an evaluation set, found and left out."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from clipkit.atomic import replaced
from clipkit.errors import ConfigError
from clipkit.locations import downloaded, is_remote, opened
from clipkit.progress import Progress
from clipkit.shards.dataset import DATASET_FILE, DatasetDescription
from clipkit.shards.derive import Choice, Derived, Display, check_out, derive
from clipkit.shards.hamming import FARTHEST, Places
from clipkit.shards.keys import DATASET
from clipkit.shards.original import Flags, Original
from clipkit.shards.parquet import UNREADABLE
from clipkit.shards.resemblance import Pictures, against, pictures_of, within
from clipkit.tables import size, table

EXAMPLES = 5
_LIST_SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # of the sample that is left out
        ("kind", pa.string()),  # "exact" or "near"
        ("distance", pa.int32()),  # bits in which the difference hashes differ
        ("like", pa.string()),  # the key, or the path, of what it is left out for
        ("of", pa.string()),  # the dataset or folder of that
        ("url", pa.string()),
        ("caption", pa.string()),
    ]
)

HashFolder = Callable[[Path, DatasetDescription, Progress], Pictures]
"""Reads the pictures of a folder, as if they had been stored like those of that dataset."""


class DedupConfig(BaseModel):
    """What counts as the same picture: equal bytes as served; with `near`, also so many bits at most."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    near: int | None = Field(default=None, ge=0, le=FARTHEST)


class Likeness(NamedTuple):
    """A sample that is left out, and what for; see `_LIST_SCHEMA`."""

    key: str
    kind: str
    distance: int
    like: str
    of: str


class DedupResult(NamedTuple):
    """What was found: samples left out for equal bytes and for near hashes, and how many for one at most.

    `groups` counts what they are left out for. `flat` samples have hashes that tell nothing: only their bytes
    were compared. `written` is None where none was asked for.
    """

    original: str
    samples: int
    exact: int
    near: int
    groups: int
    largest: int
    flat: int
    examples: list[Likeness]
    written: Derived | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        examples = [each._asdict() for each in self.examples]
        return self._asdict() | {
            "examples": examples,
            "written": self.written._asdict() if self.written else None,
        }

    def lines(self) -> str:
        """Return the counts as aligned tables."""
        names = ("samples", "exact", "near", "groups", "largest", "flat")
        titles = ("samples", "same bytes", "near hash", "groups", "most in one", "flat: by bytes only")
        counts = [(title, f"{getattr(self, name):,}") for title, name in zip(titles, names, strict=True)]
        blocks = [f"{self.original}: {self.seconds:.1f} s\n{table(counts)}"]
        if self.examples:
            blocks.append(table(self.examples, ("left out", "kind", "bits", "for", "of")))
        if self.written:
            kept = f"{self.written.samples:,} samples, {size(self.written.bytes)}"
            blocks.append(f"{self.written.out}: {kept}; {self.written.report}")
        return "\n\n".join(blocks)


class _Found(NamedTuple):
    """For each sample: whether it is left out, for which picture of which set, and whether its bytes are."""

    is_left_out: Flags
    other: Places
    which: Places
    is_exact: Flags


def dedup(
    directory: Path,
    config: DedupConfig,
    *,
    out: Path | None = None,
    others: Sequence[Path] = (),
    listed: Path | None = None,
    hash_folder: HashFolder,
    progress: Display = Progress,
) -> DedupResult:
    """Find what is there twice in the dataset, or what is in `others` too; write the rest as `out`.

    With `others`, datasets or folders of pictures, what resembles one of theirs is left out, and nothing else
    is. `listed` is a Parquet file to write, one row a sample that is left out. Raises as `derive` does.
    """
    begun = time.monotonic()
    original = Original(directory)
    if listed:
        _check_list(listed, out)
    if out is not None:
        check_out(original, out)
    for other in others:
        _check_other(other, directory)
    with progress("hashes", original.samples, "samples") as display:
        pictures = pictures_of(original, display)
    sets = [_pictures(other, original, hash_folder, progress) for other in others]
    with progress("compare", original.samples, "samples") as display:
        found = _found(pictures, sets, config.near)
        display.update(original.samples)
    if listed:
        _write_list(listed, original, pictures, sets or [pictures], found)
    exact = int((found.is_left_out & found.is_exact).sum())
    near = int(found.is_left_out.sum()) - exact
    written = None
    if out is not None:
        choice = Choice(
            keep=~found.is_left_out,
            command="dedup",
            settings={
                "near": config.near,
                "against": [{"name": each.source, "fingerprint": each.fingerprint} for each in sets],
            },
            left_out={"exact": exact, "near": near},
            lost={},
        )
        (written,) = derive(original, {out: choice}, progress)
    groups = np.stack([found.which, found.other], axis=1)[found.is_left_out]
    sizes = np.unique(groups, axis=0, return_counts=True)[1]
    return DedupResult(
        original=str(directory),
        samples=original.samples,
        exact=exact,
        near=near,
        groups=len(sizes),
        largest=int(sizes.max(initial=0)),
        flat=int(pictures.flat.sum()) if config.near is not None else 0,
        examples=list(_examples(pictures, sets or [pictures], found)),
        written=written,
        seconds=time.monotonic() - begun,
    )


def _check_other(path: Path, directory: Path) -> None:
    if path.resolve() == directory.resolve():
        raise ConfigError(
            f"--against {path}: expected another dataset, found the same one; leave the option out to find "
            "what is there twice"
        )
    if not is_remote(path) and not path.is_dir():
        raise ConfigError(f"--against {path}: expected a dataset or a folder of pictures, found neither")


def _pictures(path: Path, original: Original, hash_folder: HashFolder, progress: Display) -> Pictures:
    if (path / DATASET_FILE).exists():
        other = Original(path)
        with progress(f"hashes of {path.name}", other.samples, "samples") as display:
            return pictures_of(other, display)
    with progress(f"hashes of {path.name}", None, "files") as display:
        return hash_folder(path, original.description, display)


def _found(pictures: Pictures, sets: Sequence[Pictures], near: int | None) -> _Found:
    count = len(pictures.dhash)
    if not sets:
        leader = within(pictures, near)
        exact = (pictures.sha256 == pictures.sha256[leader]).all(axis=1)
        return _Found(leader != np.arange(count), leader, np.zeros(count, dtype=np.int64), exact)
    other, which = np.full(count, -1, dtype=np.int64), np.zeros(count, dtype=np.int64)
    exact = np.zeros(count, dtype=np.bool_)
    for number, each in enumerate(sets):
        match = against(pictures, each, near)
        new = np.flatnonzero((match >= 0) & (other < 0))
        other[new], which[new] = match[new], number
        exact[new] = (pictures.sha256[new] == each.sha256[match[new]]).all(axis=1)
    return _Found(other >= 0, other, which, exact)


def _likenesses(
    pictures: Pictures, sets: Sequence[Pictures], found: _Found, places: Places
) -> Iterator[Likeness]:
    for place in places.tolist():
        of, other = sets[found.which[place]], int(found.other[place])
        yield Likeness(
            key=pictures.name(place),
            kind="exact" if found.is_exact[place] else "near",
            distance=int(np.bitwise_count(pictures.dhash[place] ^ of.dhash[other])),
            like=of.name(other),
            of=of.source,
        )


def _examples(pictures: Pictures, sets: Sequence[Pictures], found: _Found) -> Iterator[Likeness]:
    for kind in (True, False):
        places = np.flatnonzero(found.is_left_out & (found.is_exact == kind))[:EXAMPLES]
        yield from _likenesses(pictures, sets, found, places)


def _check_list(path: Path, out: Path | None) -> None:
    of_out = out is not None and out.resolve() in path.resolve().parents
    if of_out or (path.parent / DATASET_FILE).exists():
        raise ConfigError(
            f"--list {path}: expected a place outside of datasets, in which only what is theirs stays, found "
            "one inside"
        )
    if not is_remote(path) and not os.access(path.parent, os.W_OK):
        raise ConfigError(f"--list {path}: expected a folder to write into, found none such: {path.parent}")
    if path.exists():
        try:
            with downloaded(path) as copy, os.fdopen(opened(copy), "rb") as file:
                found = pq.read_schema(file).names
        except UNREADABLE:
            found = None
        if found != _LIST_SCHEMA.names:
            raise ConfigError(f"--list {path}: expected a new file, or a list to replace, found another file")


def _write_list(
    path: Path, original: Original, pictures: Pictures, sets: Sequence[Pictures], found: _Found
) -> None:
    left_out = np.flatnonzero(found.is_left_out)
    ends = np.cumsum(original.sizes)
    places_of = np.split(left_out, np.searchsorted(left_out, ends[:-1]))
    listed = [number for number, places in enumerate(places_of) if len(places)]
    schema = _LIST_SCHEMA.with_metadata({DATASET: original.fingerprint})
    with (
        replaced(path) as temporary,
        temporary.open("wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        manifests = original.manifests([original.shards[each] for each in listed], ["url", "caption"])
        for number, (shard, manifest) in zip(listed, manifests, strict=True):
            places = places_of[number]
            texts = manifest.take(pa.array(places - (ends[number] - shard.samples))).to_pylist()
            likenesses = _likenesses(pictures, sets, found, places)
            rows = [each._asdict() | text for each, text in zip(likenesses, texts, strict=True)]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
