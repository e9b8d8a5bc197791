"""What a dataset holds, counted from its index, manifests and failure files.

The memory is that of 16 bytes a sample: two hashes, which tell what comes more than once.
"""

from collections import Counter
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipkit.errors import DatasetError
from clipkit.locations import each_of, is_remote
from clipkit.progress import Progress
from clipkit.shards.dataset import Parent, read_dataset_if_any
from clipkit.shards.distribution import Distribution, Spread
from clipkit.shards.index import IndexEntry, read_index
from clipkit.shards.origin import origin_table
from clipkit.shards.parquet import read_parquet
from clipkit.shards.schemas import FAILURE_SCHEMA, MANIFEST_SCHEMA
from clipkit.tables import Cell, size, table

_SPREADS = ("width", "height", "image_bytes", "caption_characters", "caption_words")
_MANIFEST_COLUMNS = ["width", "height", "image_bytes", "caption", "sha256", "original_format", "ext", "url"]
_FAILURE_COLUMNS = ["reason", "retryable", "url"]
_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(?P<host>\[[^\]/?#]*\]|[^/?#:]+)"
_TOP = 20
_LONGEST = 60  # characters of a name in the tables
_MOST_HOSTS = 200_000  # in memory; beyond, half of them, the rarest, are forgotten
_SILENT = 500  # so many shards are counted in two or three seconds
_SHOWN = ("p5", "p25", "p75", "p95")  # in the table, of PERCENTS

Hashes = npt.NDArray[np.int64]


class Cause(NamedTuple):
    """How many records failed for a reason, which share of all failures that is, how many may pass."""

    reason: str
    failures: int
    share: float
    retryable: int


class Host(NamedTuple):
    """How many samples and failures came from a host."""

    host: str
    samples: int
    failures: int


class Summary(NamedTuple):
    """Counts of a dataset. `records` = `samples` + `failures`: each source record is one or the other.

    `repeated_images` are samples whose picture, as served, an earlier one has, byte for byte; `hosts` the
    twenty with the most records. `bytes` are those of the tars.
    """

    directory: str
    shards: int
    samples: int
    failures: int
    bytes: int
    causes: list[Cause]
    spreads: dict[str, Spread]
    formats: dict[str, int]
    extensions: dict[str, int]
    hosts: list[Host]
    distinct_images: int
    repeated_images: int
    distinct_captions: int
    empty_captions: int
    finished: bool
    parent: Parent | None = None

    @property
    def records(self) -> int:
        """How many source records the dataset accounts for."""
        return self.samples + self.failures

    @property
    def reasons(self) -> dict[str, int]:
        """The failures by reason, most first."""
        return {cause.reason: cause.failures for cause in self.causes}

    @property
    def retryable(self) -> int:
        """How many of the failures may pass."""
        return sum(cause.retryable for cause in self.causes)

    def as_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values; each spread stands under its column's name."""
        plain = {"records": self.records, **self._asdict()}
        spreads = {name: spread.as_json() for name, spread in plain.pop("spreads").items()}
        plain |= {"reasons": self.reasons, "retryable": self.retryable}
        plain |= {name: [each._asdict() for each in getattr(self, name)] for name in ("causes", "hosts")}
        return plain | spreads | {"parent": self.parent.model_dump() if self.parent else None}

    def lines(self) -> str:
        """Return the counts as aligned tables."""
        counts = [(name, f"{getattr(self, name):,}") for name in ("records", "samples", "failures", "shards")]
        counts += [("bytes", size(self.bytes))]
        repeated = f" ({self.repeated_images:,} samples repeat one)" if self.repeated_images else ""
        counts += [("different images", f"{self.distinct_images:,}{repeated}")]
        empty = f" ({self.empty_captions:,} samples have an empty one)" if self.empty_captions else ""
        counts += [("different captions", f"{self.distinct_captions:,}{empty}")]
        counts += [("formats as served", _shares(self.formats))] if self.formats else []
        counts += [("stored as", _shares(self.extensions))] if self.extensions else []
        blocks = [] if self.finished else ["INGEST HAS NOT FINISHED: these are the counts so far"]
        blocks += [table(counts), self._table_of_spreads()]
        blocks += [origin_table(self.parent)] if self.parent else []
        if self.causes:
            causes = [
                (cause.reason, cause.failures, f"{100 * cause.share:.1f}%", _may_pass(cause))
                for cause in self.causes
            ]
            blocks += [table(causes, ("failures by cause", "records", "share", "may pass"))]
        if self.hosts:
            hosts = [(_cut(host.host), host.samples, host.failures) for host in self.hosts]
            blocks += [table(hosts, (f"hosts, the first {_TOP}", "samples", "failures"))]
        return "\n\n".join(blocks)

    def _table_of_spreads(self) -> str:
        low, high = _SHOWN[:2], _SHOWN[2:]
        rows: list[tuple[Cell, ...]] = [
            (
                name.replace("_", " "),
                spread.least,
                *(spread.percentiles[percent] for percent in low),
                spread.median,
                spread.mean,
                *(spread.percentiles[percent] for percent in high),
                spread.greatest,
            )
            for name, spread in self.spreads.items()
        ]
        words = [percent.replace("p", "") + "%" for percent in _SHOWN]
        return table(rows, ("", "least", *words[:2], "median", "mean", *words[2:], "most"))


def summarize(directory: Path) -> Summary:
    """Count what the dataset in `directory` holds. Raises DatasetError if it is not one, or damaged."""
    index = read_index(directory)
    index.check_files(directory)
    dataset = read_dataset_if_any(directory)
    remote = is_remote(directory)
    samples = sum(shard.samples for shard in index.shards)
    counted = _Samples(samples)
    many = len(index.shards) > _SILENT
    with Progress("info", len(index.shards), "shards") if many else nullcontext() as display:
        read = partial(_read, directory, columns=_MANIFEST_COLUMNS, schema=MANIFEST_SCHEMA)
        for number, manifest in enumerate(each_of(read, index.shards, remote=remote), 1):
            counted.add(manifest)
            if display is not None:
                display.update(number)
    failed = _Failures()
    read = partial(_read, directory, columns=_FAILURE_COLUMNS, schema=FAILURE_SCHEMA)
    for failures in each_of(read, index.failure_files, remote=remote):
        failed.add(failures)
    images, repeated_images = counted.images.distinct()
    return Summary(
        directory=str(directory),
        shards=len(index.shards),
        samples=samples,
        failures=sum(entry.samples for entry in index.failure_files),
        bytes=sum(shard.bytes for shard in index.shards),
        causes=failed.causes(),
        spreads={name: each.spread() for name, each in counted.distributions.items()},
        formats=dict(counted.formats.most_common()),
        extensions=dict(counted.extensions.most_common()),
        hosts=_top(counted.hosts, failed.hosts),
        distinct_images=images,
        repeated_images=repeated_images,
        distinct_captions=counted.captions.distinct()[0],
        empty_captions=counted.empty,
        finished=dataset is None or dataset.complete,
        parent=dataset.description.parent if dataset else None,
    )


def _read(directory: Path, entry: IndexEntry, columns: list[str], schema: pa.Schema) -> pa.Table:
    path = (directory / entry.name).with_suffix(".parquet")
    # Behind an address all of it has to come anyway; here hashing would cost more than the columns do.
    sha256 = (entry.manifest_sha256 or entry.sha256) if is_remote(directory) else None
    found = read_parquet(path, "a file with the columns of clipkit's", columns, sha256)
    wanted = pa.schema([schema.field(name) for name in columns])
    if not found.schema.equals(wanted) or len(found) != entry.samples:
        raise DatasetError(
            f"{path}: expected {entry.samples:,} rows with the columns {', '.join(columns)}, found "
            f"{len(found):,} with {', '.join(found.schema.names)}, or of other types; restore it"
        )
    return found


class _Samples:
    def __init__(self, samples: int):
        self.distributions = {name: Distribution() for name in _SPREADS}
        self.images, self.captions = _Distinct(samples), _Distinct(samples)
        self.formats, self.extensions, self.hosts = Counter[str](), Counter[str](), Counter[str]()
        self.empty = 0

    def add(self, manifest: pa.Table) -> None:
        captions = manifest["caption"]
        columns = {name: manifest[name] for name in ("width", "height", "image_bytes")}
        columns["caption_characters"] = pc.utf8_length(captions)
        columns["caption_words"] = pc.count_substring_regex(captions, r"\S+")
        for name, column in columns.items():
            self.distributions[name].add(column.drop_null().to_numpy())
        self.empty += int(pc.sum(pc.equal(columns["caption_characters"], 0)).as_py() or 0)
        self.images.add(manifest["sha256"])
        self.captions.add(captions)
        _count(self.formats, manifest["original_format"])
        _count(self.extensions, manifest["ext"])
        _count_hosts(self.hosts, manifest["url"])


class _Failures:
    def __init__(self) -> None:
        self.hosts = Counter[str]()
        self._reasons, self._retryable = Counter[str](), Counter[str]()

    def add(self, failures: pa.Table) -> None:
        _count(self._reasons, failures["reason"])
        _count(self._retryable, failures.filter(failures["retryable"])["reason"])
        _count_hosts(self.hosts, failures["url"])

    def causes(self) -> list[Cause]:
        whole = max(1, self._reasons.total())
        return [
            Cause(reason, count, round(count / whole, 6), self._retryable[reason])
            for reason, count in self._reasons.most_common()
        ]


class _Distinct:
    """Tells how many texts are different, by 64 bits of each: in a billion 0.03 are expected to coincide."""

    def __init__(self, most: int):
        self._hashes: Hashes = np.empty(most, np.int64)
        self._count = 0

    def add(self, texts: pa.ChunkedArray) -> None:
        known = texts.drop_null()
        hashes = np.fromiter(map(hash, known.to_pylist()), np.int64, len(known))
        self._hashes[self._count : self._count + len(hashes)] = hashes
        self._count += len(hashes)

    def distinct(self) -> tuple[int, int]:
        """Return how many there are, and how many texts repeat an earlier one."""
        hashes = self._hashes[: self._count]
        hashes.sort()
        different = int(np.count_nonzero(hashes[1:] != hashes[:-1])) + bool(len(hashes))
        return different, len(hashes) - different


def _count(counter: Counter[str], texts: pa.ChunkedArray) -> None:
    for counted in texts.drop_null().value_counts().to_pylist():
        counter[counted["values"]] += counted["counts"]


def _count_hosts(counter: Counter[str], urls: pa.ChunkedArray) -> None:
    found = pc.extract_regex(urls, _HOST).drop_null()
    _count(counter, pc.utf8_lower(pc.struct_field(found, "host")))
    if len(counter) > _MOST_HOSTS:
        kept = counter.most_common(_MOST_HOSTS // 2)
        counter.clear()
        counter.update(dict(kept))


def _top(samples: Counter[str], failures: Counter[str]) -> list[Host]:
    both = samples + failures
    ordered = sorted(both.items(), key=lambda each: (-each[1], each[0]))[:_TOP]
    return [Host(host, samples[host], failures[host]) for host, _ in ordered]


def _shares(counts: dict[str, int]) -> str:
    whole = sum(counts.values())
    return ", ".join(f"{_cut(name)} {100 * count / whole:.1f}%" for name, count in [*counts.items()][:8])


def _may_pass(cause: Cause) -> str:
    return {0: "", cause.failures: "all"}.get(cause.retryable, f"{cause.retryable:,}")


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
