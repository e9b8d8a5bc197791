"""Tables of URLs and captions, one file or many, with the columns found by the names that such tables use."""

import json
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from clipkit.errors import SourceError
from clipkit.ingest.blurring import with_boxes
from clipkit.ingest.expected_hash import with_hash
from clipkit.ingest.list_files import at_hand, identify_all
from clipkit.ingest.rows import UrlRow
from clipkit.ingest.sources import Source, refuse_mixed_splits, unique_names
from clipkit.ingest.table_formats import JsonLines, Parquet, Table, as_text, is_nested
from clipkit.shards.delimited import Delimited, Values, find_column
from clipkit.shards.picture_files import SEPARATORS
from clipkit.shards.schemas import FIXED_COLUMNS
from clipkit.shards.text_files import MAX_RECORD_BYTES, Malformed, name_without_compression, opened

URL_COLUMNS = frozenset({"url", "image_url", "img_url", "imageurl"})
CAPTION_COLUMNS = frozenset({"caption", "text", "alt_text", "alttext", "alt"})
"""Lower-case names in LAION (URL, TEXT), DataComp, COYO (url, text), and lists made for img2dataset."""


def _csv(path: Path) -> Table:
    table = Delimited(path, ",", quoted_newlines=True)
    if len(table.names) > 1:
        return table
    others = (Delimited(path, separator, quoted_newlines=True) for separator in SEPARATORS)
    return max(others, key=lambda other: len(other.names))


FORMATS: dict[str, Callable[[Path], Table]] = {
    ".csv": _csv,
    ".tsv": lambda path: Delimited(path, "\t", quoted_newlines=False),
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".parquet": Parquet,
}


class _Opened(NamedTuple):
    name: str
    table: Table
    url: str
    caption: str


class _Demand(NamedTuple):
    """What a further column asks of each picture; `setting` names it in the dataset's description."""

    column: str
    setting: str
    content: str
    apply: Callable[[UrlRow, Any], UrlRow]

    @property
    def option(self) -> str:
        return f"--{self.setting.replace('_', '-')}"


def table_files(
    paths: Sequence[Path],
    url_column: str | None = None,
    caption_column: str | None = None,
    keep: Sequence[str] = (),
    hash_column: str | None = None,
    blur_column: str | None = None,
) -> Source:
    """Open tables: csv, tsv, jsonl or parquet by the name's ending; text also as .gz, .bz2 or .zst.

    What separates the values of a csv is the comma, unless its header has none: then what its header has.
    A directory stands for its tables in order of name. Columns that are not given are found by
    URL_COLUMNS and CAPTION_COLUMNS; those of `keep` go into the manifest. A picture whose bytes have not the
    hash in `hash_column` is no sample, nor is a record without one; what lies in the boxes of `blur_column`
    is blurred. Raises SourceError for a file that cannot be read as a table, a column that is missing or
    ambiguous, columns to keep that clash with others, and a mixture of training and validation files.
    """
    files = expanded(paths)
    names = unique_names(files)
    refuse_mixed_splits(files, "table")
    files = at_hand(files)
    demands = [
        *([_Demand(hash_column, "hash_col", "hashes", with_hash)] if hash_column is not None else []),
        *([_Demand(blur_column, "blur_col", "boxes", with_boxes)] if blur_column is not None else []),
    ]
    tables = []
    for path, name in zip(files, names, strict=True):
        table = table_of(path)
        url = find_column(path, table.names, url_column, URL_COLUMNS, "URLs", "--url-col")
        caption = find_column(path, table.names, caption_column, CAPTION_COLUMNS, "captions", "--caption-col")
        for chosen, content in ((url, "URLs"), (caption, "captions")):
            if chosen in table.nested:
                raise SourceError(
                    f"{path}: expected text in the column of {content}, {chosen}, found lists or "
                    "objects; make a table with one text in each record"
                )
        for demand in demands:
            find_column(path, table.names, demand.column, frozenset(), demand.content, demand.option)
        tables.append(_Opened(name, table, url, caption))
    kept = _kept_fields(files, tables, keep)

    def read() -> Generator[UrlRow]:
        for one in tables:
            columns = [one.url, one.caption, *keep, *(demand.column for demand in demands)]
            for number, record in enumerate(one.table.read(columns)):
                made = row(one.name, number, record, keep)
                for place, demand in enumerate(demands, 2 + len(keep)):
                    made = made if made.problem else demand.apply(made, _plain(record[place]))
                yield made

    return Source(
        files=identify_all(files, names),
        records=sum(one.table.count() for one in tables),
        read=read,
        reading={
            "kind": "table",
            "url_col": _distinct(one.url for one in tables),
            "caption_col": _distinct(one.caption for one in tables),
            "keep_col": json.dumps(list(keep)),
            **{demand.setting: demand.column for demand in demands},
        },
        kept=tuple(kept),
    )


def expanded(paths: Sequence[Path]) -> list[Path]:
    """Return the files, each directory replaced by the tables in it. Raises SourceError if it holds none."""
    files = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(
            file for file in path.iterdir() if _ending(file) in FORMATS and file.name[0] not in "._"
        )
        if not inside:
            raise SourceError(f"{path}: expected files ending in {', '.join(FORMATS)}, found none in it")
        files += inside
    return files


def table_of(path: Path) -> Table:
    """Open a table by its name's ending. Raises SourceError for any other ending."""
    ending = _ending(path)
    if ending not in FORMATS:
        with opened(path):  # what is not there is no matter of its name's ending
            pass
        raise SourceError(
            f"{path}: expected a name ending in {', '.join(FORMATS)} (text also with .gz, .bz2 or .zst), "
            f"found {ending or 'none'}; rename the file, or use another `clipkit ingest` command"
        )
    if ending == ".parquet" and path.suffix.lower() != ".parquet":
        raise SourceError(f"{path}: expected a Parquet file as it is, found a compressed one; unpack it")
    return FORMATS[ending](path)


def row(source: str, number: int, record: Values | Malformed, keep: Sequence[str] = ()) -> UrlRow:
    """Make the row of a record: its URL, its caption, and the values to keep."""
    if isinstance(record, Malformed):
        return UrlRow(source, number, "", record.text[:MAX_RECORD_BYTES], record.problem)
    if any(isinstance(value, str) and len(value) > MAX_RECORD_BYTES for value in record):
        beginning = str(record[1] or "")[:MAX_RECORD_BYTES]
        return UrlRow(source, number, "", beginning, f"longer than {MAX_RECORD_BYTES:,} characters")
    url, caption = ("" if value is None or value != value else str(_plain(value)) for value in record[:2])
    if any(map(is_nested, record[:2])):
        return UrlRow(source, number, url, caption, "a list or an object where a text is to be")
    if record[0] is None or record[0] != record[0]:  # NaN, which is null of pandas'
        return UrlRow(source, number, "", caption, "the URL is null")
    kept = dict(zip(keep, map(_plain, record[2 : 2 + len(keep)]), strict=True)) if keep else None
    return UrlRow(source, number, url.strip(), caption, kept=kept)


def _plain(value: Any) -> Any:
    return as_text(value) if is_nested(value) else value


def refuse_clashes(keep: Sequence[str]) -> None:
    """Raise SourceError if the manifest cannot have columns of these names beside its own."""
    clashing = [name for name in keep if name in FIXED_COLUMNS or list(keep).count(name) > 1]
    if clashing:
        raise SourceError(
            f"--keep-col {clashing[0]}: expected a name of its own, found one that the manifest has already; "
            "its own columns are always there, others can be kept once"
        )


def _kept_fields(files: Sequence[Path], tables: Sequence[_Opened], keep: Sequence[str]) -> list[pa.Field]:
    refuse_clashes(keep)
    schemas = []
    for path, one in zip(files, tables, strict=True):
        for name in keep:
            find_column(path, one.table.names, name, frozenset(), name, "--keep-col")
        schemas.append(one.table.fields(keep))
        for field, first in zip(schemas[-1], schemas[0], strict=True):
            if field.type != first.type:
                raise SourceError(
                    f"{path}: expected {field.name} as {first.type} as in {files[0]}, found {field.type}; "
                    "make two calls, or convert one of the files"
                )
    return schemas[0]


def _ending(path: Path) -> str:
    return name_without_compression(path).suffix.lower()


def _distinct(names: Any) -> str:
    return json.dumps(list(dict.fromkeys(names)))
