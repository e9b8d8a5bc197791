"""What a finished dataset looks like: its figures and a few of its pictures, gathered for one page."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa

from clipkit.atomic import write_text
from clipkit.errors import DatasetError
from clipkit.locations import each_of, is_remote
from clipkit.shards.dataset import DatasetDescription, Pass, read_dataset
from clipkit.shards.failure_files import read_failures
from clipkit.shards.index import Index, IndexEntry, read_index
from clipkit.shards.looked_at import Samples
from clipkit.shards.parquet import read_parquet
from clipkit.shards.report_page import CAPTION_LENGTHS, SHORT_SIDES, render
from clipkit.shards.thumbnail import thumbnail

REPORT_FILE = "report.html"
MAX_FILES = 200  # manifests and failure files read, each spread evenly: the page costs the same at any size
PICTURES = 48
EXAMPLES_PER_REASON = 3
_SIDE = 296  # pixels: twice what the page gives a picture
_COLUMNS = ["url", "caption", "original_format", "original_width", "original_height", "sha256"]

T = TypeVar("T")


class Example(NamedTuple):
    """A URL that gave no sample."""

    reason: str
    url: str
    detail: str


class Shown(NamedTuple):
    """A picture of the page: JPEG bytes, and the sample's caption and key."""

    jpeg: bytes
    caption: str
    key: str


@dataclass
class Report:
    """The page's content. Counts but those of the index are over the files looked at (`sampled`: not all)."""

    name: str
    description: DatasetDescription
    passes: tuple[Pass, ...]
    shards: int
    samples: int
    failures: int
    bytes: int
    sampled: bool = False
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)
    hosts_ok: Counter[str] = field(default_factory=Counter)
    hosts_failed: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    short_sides: Counter[int] = field(default_factory=Counter)
    caption_lengths: Counter[int] = field(default_factory=Counter)
    repeated: int = 0
    pictures: list[Shown] = field(default_factory=list)


def write_report(directory: Path) -> Path:
    """Write the page of the dataset in `directory`; return its path. Raises DatasetError as reading does."""
    path = directory / REPORT_FILE
    write_text(path, render(gather(directory)))
    return path


def gather(directory: Path) -> Report:
    """Count what the page shows."""
    index = read_index(directory)
    dataset = read_dataset(directory)
    report = Report(
        name=directory.resolve().name,
        description=dataset.description,
        passes=dataset.passes,
        shards=len(index.shards),
        samples=sum(entry.samples for entry in index.shards),
        failures=sum(entry.samples for entry in index.failure_files),
        bytes=sum(entry.bytes for entry in index.shards),
        sampled=max(len(index.shards), len(index.failure_files)) > MAX_FILES,
    )
    _count_samples(report, directory, index)
    _count_failures(report, directory, index)
    if report.samples:
        report.pictures = list(_pictures(directory))
    return report


def _count_samples(report: Report, directory: Path, index: Index) -> None:
    digests: set[str] = set()

    def manifest_of(entry: IndexEntry) -> pa.Table:
        manifest = (directory / entry.name).with_suffix(".parquet")
        return read_parquet(manifest, "the shard's manifest", _COLUMNS, entry.manifest_sha256)

    for table in each_of(manifest_of, _spread(index.shards, MAX_FILES), remote=is_remote(directory)):
        column = {name: table[name].to_pylist() for name in _COLUMNS}
        report.hosts_ok.update(host for url in column["url"] if (host := _host(url)))
        report.formats.update(filter(None, column["original_format"]))
        sizes = zip(column["original_width"], column["original_height"], strict=True)
        report.short_sides.update(_bin(min(size), SHORT_SIDES) for size in sizes if None not in size)
        report.caption_lengths.update(_bin(len(text), CAPTION_LENGTHS) for text in column["caption"])
        known = list(filter(None, column["sha256"]))  # after a repair some columns may be unknown
        report.repeated += len(known) - len(set(known) - digests)
        digests.update(known)


def _count_failures(report: Report, directory: Path, index: Index) -> None:
    shown: Counter[str] = Counter()
    read = partial(read_failures, directory, columns=["url", "caption", "reason", "detail"])
    files = _spread(index.failure_files, MAX_FILES)
    for table in each_of(read, files, remote=is_remote(directory)):
        report.hosts_failed.update(host for url in table["url"].to_pylist() if (host := _host(url)))
        for url, caption, given, detail in zip(*(column.to_pylist() for column in table), strict=True):
            reason = given or "?"  # a stranger's file may lack it
            report.reasons[reason] += 1
            if shown[reason] < EXAMPLES_PER_REASON:
                shown[reason] += 1
                report.examples.append(Example(reason, url or caption or "", detail or ""))


def _pictures(directory: Path) -> Iterator[Shown]:
    samples = Samples(directory)
    for row, picture in samples.at(_spread(range(len(samples)), PICTURES)):
        if isinstance(picture, DatasetError):
            raise picture
        jpeg = None
        with suppress(Exception):  # pictures kept as served may make decoders raise anything
            jpeg = thumbnail(picture, _SIDE)
        if jpeg is not None:
            yield Shown(jpeg, row.values["caption"], row.values["key"])


def _host(url: str | None) -> str:
    try:
        return urlsplit(url or "").hostname or ""
    except ValueError:
        return ""


def _bin(value: int, lower_bounds: Sequence[int]) -> int:
    return max(bound for bound in lower_bounds if bound <= max(value, 0))


def _spread(things: Sequence[T], count: int) -> list[T]:
    if len(things) <= count:
        return list(things)
    return [things[position * len(things) // count] for position in range(count)]
