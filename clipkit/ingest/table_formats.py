"""Tables that lists of URLs come as: CSV (RFC 4180, leniently), TSV, JSON Lines, Parquet.

Each reader names the columns it found, counts its records, and streams the values of chosen columns. What is
no proper record is Malformed; it is counted, and reading goes on behind it.
"""

import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import pyarrow as pa
import pyarrow.parquet as pq

from clipkit.errors import SourceError
from clipkit.json_values import parsed_json, without_halves
from clipkit.shards.delimited import TextColumns, Values
from clipkit.shards.parquet import UNREADABLE
from clipkit.shards.text_files import Malformed, check_utf8, count_lines, opened, read_records

_RECORDS_LOOKED_AT = 100
_BATCH = 1000


class Table(Protocol):
    """A table file. `names` are the columns found, `nested` those of them that hold lists or objects, as far
    as is known; every method raises SourceError if it cannot be read.
    """

    names: list[str]
    nested: Collection[str]

    def count(self) -> int:
        """Return the number of records, malformed ones included."""

    def read(self, names: Sequence[str]) -> Iterator[Values | Malformed]:
        """Yield each record's values of these columns: text, None, what JSON nests, or as `fields` says."""

    def fields(self, names: Sequence[str]) -> list[pa.Field]:
        """Return the columns as a manifest keeps them: plain types as they are, all else as text."""


class JsonLines(TextColumns):
    """One JSON object a line; the columns are the keys of the first hundred."""

    def __init__(self, path: Path):
        self._path = path
        with opened(path) as stream:
            records = [
                json_object(line) for line in itertools.islice(read_records(stream), _RECORDS_LOOKED_AT)
            ]
        objects = [record for record in records if not isinstance(record, Malformed)]
        if not objects:
            for record in records[:1]:
                check_utf8(path, record.text)  # type: ignore[union-attr]
            found = f"{records[0].problem} in the first record" if records else "an empty file"  # type: ignore[union-attr]
            raise SourceError(f"{path}: expected a JSON object on each line, found {found}")
        self.names = list(dict.fromkeys(name for record in objects for name in record))
        nested: dict[str, bool] = {}
        for name, value in itertools.chain.from_iterable(record.items() for record in objects):
            if value is not None:
                nested[name] = nested.get(name, True) and is_nested(value)
        self.nested: Collection[str] = [name for name, always in nested.items() if always]

    def count(self) -> int:
        """See Table."""
        return count_lines(self._path)

    def read(self, names: Sequence[str]) -> Iterator[Values | Malformed]:
        """See Table."""
        with opened(self._path) as stream:
            for line in read_records(stream):
                record = json_object(line)
                if isinstance(record, Malformed):
                    yield record
                else:
                    values = [record.get(name) for name in names]
                    yield tuple([value if is_nested(value) else as_text(value) for value in values])


class Parquet:
    """A Parquet file; read in batches of records."""

    def __init__(self, path: Path):
        self._path = path
        with self._file() as file:
            self._schema = file.schema_arrow
            self._rows: int = file.metadata.num_rows
        self.names = list(self._schema.names)
        self.nested: Collection[str] = [
            field.name for field in self._schema if pa.types.is_nested(field.type)
        ]

    def count(self) -> int:
        """See Table."""
        return self._rows

    def fields(self, names: Sequence[str]) -> list[pa.Field]:
        """See Table."""
        types = [self._schema.field(name).type for name in names]
        return [
            pa.field(name, kind if _is_plain(kind) else pa.string())
            for name, kind in zip(names, types, strict=True)
        ]

    def read(self, names: Sequence[str]) -> Iterator[Values | Malformed]:
        """See Table."""
        read = 0
        try:
            with self._file() as file:
                for batch in file.iter_batches(_BATCH, columns=list(dict.fromkeys(names)), use_threads=False):
                    read += len(batch)
                    if read <= self._rows:
                        yield from zip(*(_column(batch.column(name)) for name in names), strict=True)
        except UNREADABLE as error:
            raise self._damaged(str(error).partition("\n")[0]) from None
        except (ValueError, OverflowError) as error:  # of values deep in nested ones
            which = ", ".join(dict.fromkeys(names))
            raise SourceError(
                f"{self._path}: expected values that Python has, found others among {which} "
                f"({str(error).partition('. ')[0]}); convert them to text, or keep other columns"
            ) from None
        if read != self._rows:
            raise self._damaged(f"{read:,} records where its footer says {self._rows:,}")

    def _file(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self._stored(), buffer_size=1 << 20, pre_buffer=False)
        except UNREADABLE as error:
            raise self._damaged(str(error).partition("\n")[0]) from None

    def _stored(self) -> pa.OSFile:
        with opened(self._path) as stream:  # by no name of its own: of those pyarrow takes UTF-8 alone
            return pa.OSFile(f"/proc/self/fd/{stream.fileno()}")

    def _damaged(self, found: str) -> SourceError:
        return SourceError(f"{self._path}: expected a Parquet file, found {found}; fetch it again")


def json_object(line: str) -> dict[str, Any] | Malformed:
    """Return the object that a line of JSON is, or why it is none."""
    try:
        record = parsed_json(line)
    except ValueError as error:
        return Malformed(line, f"not JSON: {str(error)[:100]}")
    return record if isinstance(record, dict) else Malformed(line, "JSON, but no object")


def is_nested(value: Any) -> TypeGuard[list[Any] | dict[str, Any]]:
    """Tell whether a value of JSON is a list or an object."""
    return isinstance(value, list | dict)


def as_text(value: Any) -> str | None:
    """Return a value of JSON as text, all but strings as JSON; what no UTF-8 can hold becomes U+FFFD.

    NaN is nothing, as null is: it is what Python writes of pandas' missing values.
    """
    if value is None or value != value:
        return None
    is_json = isinstance(value, dict | list | bool | int | float)
    text = json.dumps(value, ensure_ascii=False, default=str) if is_json else str(value)
    return without_halves(text)


def _column(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_temporal(kind):
        column, kind = column.cast(pa.string()), pa.string()  # Python's have no nanoseconds, nor a year 0
    if str(kind) in ("string", "large_string", "string_view"):
        column = column.cast(pa.large_binary())
    values: list[Any] = column.to_pylist()
    if _is_plain(kind) and not pa.types.is_string(kind):
        return values
    return [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else as_text(value) for value in values
    ]


def _is_plain(kind: pa.DataType) -> bool:
    is_number = pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)
    return bool(is_number or pa.types.is_boolean(kind) or pa.types.is_string(kind))
