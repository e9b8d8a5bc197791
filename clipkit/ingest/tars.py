"""Tars of webdataset, img2dataset or clipkit as a source: each sample is a record; nothing is requested."""

import itertools
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from clipkit.errors import DatasetError, SourceError
from clipkit.ingest.img2dataset_output import COLUMNS, count_failures, failed_rows
from clipkit.ingest.rows import UrlRow
from clipkit.ingest.sources import Source, refuse_mixed_splits, unique_names
from clipkit.ingest.table_files import refuse_clashes
from clipkit.ingest.table_formats import as_text
from clipkit.ingest.tar_files import StoredFile, stored_files, tables_beside
from clipkit.ingest.tar_rows import Described, Fields, Wanted, describe, row_of
from clipkit.locations import each_of, is_remote
from clipkit.progress import Progress
from clipkit.remote import RefusedError
from clipkit.shards.dataset import SourceFile
from clipkit.shards.headers import MEMBERS, MOST_BROKEN, error_of
from clipkit.shards.index import INDEX_FILE, read_index
from clipkit.shards.patterns import tar_paths
from clipkit.shards.text_files import Malformed, shortened
from clipkit.threads import not_waited_for

_MANIFEST = frozenset({"key", "url", "image_offset"})
_SAMPLES_LOOKED_AT = 10_000  # for the fields to keep
_SAMPLES_TOLD = 100  # whose fields are named where one is not found


class _Tar(NamedTuple):
    """A tar, and the table beside it: clipkit's manifest, or img2dataset's, which lists failures too."""

    file: StoredFile
    name: str
    table: StoredFile | None
    table_name: str
    is_manifest: bool


class _Checked(NamedTuple):
    tar: _Tar
    files: tuple[SourceFile, ...]
    records: int


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
    img2dataset's table beside it, then the next tar's. Behind addresses all is read through the cache. Raises
    SourceError and DatasetError for what is missing, damaged, not as the index of its dataset has it, or of
    mixed splits, StorageError for what cannot be had.
    """
    refuse_clashes(keep)
    paths = tar_paths(sources)
    refuse_mixed_splits(paths, "tars")
    remote = any(map(is_remote, paths))
    remarks: list[str] = []
    opened = _with_tables(paths, remarks.append)
    _check_kept(opened, keep)
    checked: list[_Checked] = []
    listed = {
        folder: _listed(folder) for folder in {tar.file.path.parent for tar in opened if tar.is_manifest}
    }
    with progress("check", len(paths), "tars") as display:
        for remark in remarks:
            display.say(remark)
        for one in each_of(_checked, opened, remote=remote):
            if one.tar.is_manifest:
                _check_as_listed(one, listed[one.tar.file.path.parent])
            checked.append(one)
            display.update(len(checked))
    wanted = Wanted(caption_column, tuple(keep))

    def read() -> Generator[UrlRow]:
        for tar, _, _ in checked:
            for number, described in enumerate(_samples(tar)):
                yield row_of(tar.file.place, tar.name, number, described, wanted)
            if tar.table and not tar.is_manifest:
                yield from failed_rows(tar.table_name, tar.table.table(), keep)

    files = tuple(itertools.chain.from_iterable(one.files for one in checked))
    records = sum(one.records for one in checked)
    reading = {"kind": "tars", "caption_col": caption_column or "", "keep_col": json.dumps(list(keep))}
    kept = tuple(pa.field(name, pa.string()) for name in keep)
    return Source(files, records, read, reading, kept)


def _with_tables(paths: Sequence[Path], say: Callable[[str], None]) -> list[_Tar]:
    """Look for the tables, and at the ends of tars of this machine: what was cut off is better known before
    the long work.
    """
    unique_names(paths)  # none given twice: before anything is asked for
    files = stored_files(paths)
    remote = any(map(is_remote, paths))
    tables = list(each_of(_known_table, zip(files, tables_beside(files, say), strict=True), remote=remote))
    names = iter(unique_names([*paths, *(table.path for table, _ in tables if table)]))
    of_tars = list(itertools.islice(names, len(paths)))
    opened: list[_Tar] = []
    broken: list[tuple[str, DatasetError]] = []
    for file, name, (table, is_manifest) in zip(files, of_tars, tables, strict=True):
        opened.append(_Tar(file, name, table, next(names) if table else "", is_manifest))
        if file.wanted is None and len(broken) < MOST_BROKEN:
            try:
                with file.tar() as reader:
                    reader.check_end()
            except DatasetError as error:
                broken.append((name, error))
    if broken:
        raise error_of(broken)
    return opened


def _known_table(pair: tuple[StoredFile, StoredFile | None]) -> tuple[StoredFile | None, bool]:
    tar, table = pair
    if table is None:
        return None, False
    try:
        names = set(table.table().names)
    except SourceError as error:
        raise SourceError(
            f"{error}; it belongs to {tar.path.name}: if img2dataset was stopped, let it finish, "
            "or leave both out"
        ) from None
    is_manifest = names >= _MANIFEST
    return (table, is_manifest) if is_manifest or names >= COLUMNS else (None, False)


def _checked(tar: _Tar) -> _Checked:
    with not_waited_for():
        file, of_tar = tar.file.identify(tar.name)
        files, table = [of_tar], tar.table
        if table:
            table, of_table = table.identify(tar.table_name)
            files.append(of_table)
    tar = tar._replace(file=file, table=table)
    return _Checked(tar, tuple(files), _count(tar))


def _listed(folder: Path) -> dict[str, tuple[str, str | None]]:
    """Return the SHA-256 of each tar and manifest by the index of a dataset, nothing where there is none."""
    try:
        shards = read_index(folder).shards
    except (DatasetError, RefusedError):  # of another tool, perhaps
        return {}
    return {shard.name: (shard.sha256, shard.manifest_sha256) for shard in shards}


def _check_as_listed(one: _Checked, listed: dict[str, tuple[str, str | None]]) -> None:
    path = one.tar.file.path
    found = tuple(file.sha256 for file in one.files)
    if listed.get(path.name, found) != found:
        raise SourceError(
            f"{path}: expected tar and manifest with the SHA-256 that {INDEX_FILE} beside them has, found "
            f"others; see what `clipkit shards verify {path.parent}` says, or leave the shard out"
        )


def _count(tar: _Tar) -> int:
    with not_waited_for(), tar.file.tar() as reader:
        samples = sum(1 for _ in reader.samples(MEMBERS))
    if tar.table is None:
        return samples
    table = tar.table.table()
    failures = 0 if tar.is_manifest else count_failures(table)
    if table.count() - failures != samples:
        raise _unfitting(tar, f"{table.count() - failures:,} for {samples:,} samples")
    return samples + failures


def _samples(tar: _Tar) -> Iterator[Described]:
    with tar.file.tar() as reader:
        rows = _manifest(tar.table) if tar.table and tar.is_manifest else itertools.repeat(None)
        for sample, row in zip(reader.samples(MEMBERS), rows, strict=False):
            if row and row["key"] != sample.key:
                raise _unfitting(tar, f"{row['key']!r} for {shortened(sample.key)!r}")
            yield describe(reader, sample, row)


def _manifest(file: StoredFile) -> Iterator[Fields]:
    table = file.table()
    return (dict(zip(table.names, values, strict=True)) for values in table.read(table.names))


def _unfitting(tar: _Tar, found: str) -> SourceError:
    assert tar.table
    return SourceError(
        f"{tar.table.path}: expected a row for each sample of {tar.file.path.name}, found {found}; "
        "bring back the pair, or remove the table to adopt the tar without it"
    )


def _check_kept(opened: Sequence[_Tar], keep: Sequence[str]) -> None:
    told: dict[str, None] = {}
    absent, looked_at = list(keep), 0
    every = itertools.chain.from_iterable(map(_samples, opened))
    for each in itertools.islice(every, _SAMPLES_LOOKED_AT) if keep else ():
        looked_at += 1
        if isinstance(each.fields, Malformed):
            continue
        names = [str(as_text(name)) for name in each.fields]
        absent = [name for name in absent if name not in names]
        if not absent:
            return
        if looked_at <= _SAMPLES_TOLD:
            told |= dict.fromkeys(names)
    if looked_at:
        raise SourceError(
            f"--keep-col {absent[0]}: expected a field of the samples' json, found none of that name in the "
            f"first {looked_at:,}; there are {shortened(', '.join(told), 500) or 'no json members'}"
        )
