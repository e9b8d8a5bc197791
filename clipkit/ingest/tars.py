"""Tars of webdataset, img2dataset or clipkit as a source: each sample is a record; nothing is requested."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from clipkit.errors import SourceError
from clipkit.ingest.img2dataset_output import COLUMNS, count_failures, failed_rows
from clipkit.ingest.records import Malformed, shortened
from clipkit.ingest.rows import UrlRow
from clipkit.ingest.sources import Source, identify, refuse_mixed_splits, unique_names
from clipkit.ingest.table_files import refuse_clashes
from clipkit.ingest.table_formats import Parquet, as_text
from clipkit.ingest.tar_rows import Described, Fields, Wanted, describe, row_of
from clipkit.progress import Progress
from clipkit.shards.headers import MEMBERS
from clipkit.shards.patterns import tar_paths
from clipkit.shards.tar_reader import TarReader

_MANIFEST = frozenset({"key", "url", "image_offset"})
_SAMPLES_LOOKED_AT = 100


class _Tar(NamedTuple):
    """A tar, and the table beside it: clipkit's manifest, or img2dataset's, which lists failures too."""

    path: Path
    name: str
    table: Path | None
    table_name: str
    is_manifest: bool


def tars(
    sources: Sequence[str],
    caption_column: str | None = None,
    keep: Sequence[str] = (),
    *,
    progress: Callable[[str, int | None, str], Progress] = Progress,
) -> Source:
    """Open the tars that `sources` name (see `tar_paths`); every one is checked and hashed to its end.

    A sample's caption is its txt member, else a field of its json: one of CAPTIONS. With `caption_column` it
    is that field and nothing else. The fields of `keep` go into the manifest as text; those of a tar of
    clipkit's are its manifest's columns. The rows are the samples of a tar, then the failures in
    img2dataset's table beside it, then the next tar's. Raises SourceError and DatasetError for what is
    missing, damaged, or of mixed splits.
    """
    refuse_clashes(keep)
    paths = tar_paths(sources)
    refuse_mixed_splits(paths, "tars")
    opened = _with_tables(paths)
    _check_kept(opened, keep)
    wanted = Wanted(caption_column, tuple(keep))

    def read() -> Iterator[UrlRow]:
        for tar in opened:
            for number, described in enumerate(_samples(tar)):
                yield row_of(tar.path, tar.name, number, described, wanted)
            if tar.table and not tar.is_manifest:
                yield from failed_rows(tar.table_name, Parquet(tar.table), keep)

    files, records = [], 0
    with progress("check", len(opened), "tars") as display:
        for number, tar in enumerate(opened, 1):
            files += [identify(path, name) for path, name in _files(tar)]
            records += _count(tar)
            display.update(number)
    reading = {"kind": "tars", "caption_col": caption_column or "", "keep_col": json.dumps(list(keep))}
    kept = tuple(pa.field(name, pa.string()) for name in keep)
    return Source(tuple(files), records, read, reading, kept)


def _with_tables(paths: Sequence[Path]) -> list[_Tar]:
    """Look for the tables, and at the tars' ends: what was cut off is better known before the long work."""
    tables = [_table_beside(path) for path in paths]
    names = iter(unique_names([*paths, *(table for table, _ in tables if table)]))
    of_tars = list(itertools.islice(names, len(paths)))
    opened = []
    for path, name, (table, is_manifest) in zip(paths, of_tars, tables, strict=True):
        opened.append(_Tar(path, name, table, next(names) if table else "", is_manifest))
        with TarReader(path) as reader:
            reader.check_end()
    return opened


def _table_beside(tar: Path) -> tuple[Path | None, bool]:
    path = tar.with_suffix(".parquet")
    if path == tar or not path.is_file():
        return None, False
    try:
        names = set(Parquet(path).names)
    except SourceError as error:
        raise SourceError(
            f"{error}; it belongs to {tar.name}: if img2dataset was stopped, let it finish, or leave both out"
        ) from None
    is_manifest = names >= _MANIFEST
    return (path, is_manifest) if is_manifest or names >= COLUMNS else (None, False)


def _files(tar: _Tar) -> Iterator[tuple[Path, str]]:
    yield tar.path, tar.name
    if tar.table:
        yield tar.table, tar.table_name


def _count(tar: _Tar) -> int:
    with TarReader(tar.path) as reader:
        samples = sum(1 for _ in reader.samples(MEMBERS))
    if tar.table is None:
        return samples
    table = Parquet(tar.table)
    if not tar.is_manifest:
        return samples + count_failures(table)
    if table.count() != samples:
        raise _unfitting(tar, f"{table.count():,} for {samples:,} samples")
    return samples


def _samples(tar: _Tar) -> Iterator[Described]:
    with TarReader(tar.path) as reader:
        rows = _manifest(tar.table) if tar.table and tar.is_manifest else itertools.repeat(None)
        for sample, row in zip(reader.samples(MEMBERS), rows, strict=False):
            if row and row["key"] != sample.key:
                raise _unfitting(tar, f"{row['key']!r} for {shortened(sample.key)!r}")
            yield describe(reader, sample, row)


def _manifest(path: Path) -> Iterator[Fields]:
    table = Parquet(path)
    return (dict(zip(table.names, values, strict=True)) for values in table.read(table.names))


def _unfitting(tar: _Tar, found: str) -> SourceError:
    return SourceError(
        f"{tar.table}: expected a row for each sample of {tar.path.name}, found {found}; "
        "bring back the pair, or remove the manifest to adopt the tar without it"
    )


def _check_kept(opened: Sequence[_Tar], keep: Sequence[str]) -> None:
    if not keep:
        return
    every = itertools.chain.from_iterable(map(_samples, opened))
    looked_at = [each.fields for each in itertools.islice(every, _SAMPLES_LOOKED_AT)]
    known = (fields for fields in looked_at if not isinstance(fields, Malformed))
    names = dict.fromkeys(str(as_text(name)) for fields in known for name in fields)
    for name in keep:
        if looked_at and name not in names:
            raise SourceError(
                f"--keep-col {name}: expected a field of the samples' json, found none of that name in the "
                f"first {len(looked_at)}; there are {shortened(', '.join(names), 500) or 'no json members'}"
            )
