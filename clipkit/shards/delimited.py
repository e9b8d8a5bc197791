"""Text tables with a header, whatever stands between the values: CSV (RFC 4180, leniently) and TSV."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from clipkit.errors import SourceError
from clipkit.shards.csv_records import csv_records, split_line
from clipkit.shards.text_files import Malformed, check_utf8, count_lines, opened, read_records, shortened

Values = tuple[Any, ...]


class TextColumns:
    """Tables whose values are text."""

    nested: Collection[str] = ()

    def fields(self, names: Sequence[str]) -> list[pa.Field]:
        """Return the columns as a manifest keeps them."""
        return [pa.field(name, pa.string()) for name in names]


class Delimited(TextColumns):
    """A text table with a header.

    With `quoted_newlines` a quoted value may go on over several lines, as CSV's may; otherwise a line is a
    record whatever it holds, and quotes that do not fit are text. Raises SourceError if the file cannot be
    read, or has no header.
    """

    def __init__(self, path: Path, delimiter: str, *, quoted_newlines: bool):
        self.delimiter = delimiter
        self._path, self._quoted_newlines = path, quoted_newlines
        with opened(path) as stream:
            header = next(self._records(stream), None)
        if header is None:
            raise SourceError(f"{path}: expected a header and records, found an empty file")
        if not "".join(header).strip():
            raise SourceError(f"{path}: expected a header, found an empty line; remove it")
        check_utf8(path, "".join(header))
        if isinstance(header, Malformed):
            raise SourceError(f"{path}: expected a header, found a line that is none ({header.problem})")
        self.names = [name.strip() for name in header]

    def count(self) -> int:
        """Return the number of records, malformed ones included."""
        if not self._quoted_newlines:
            return count_lines(self._path) - 1
        with opened(self._path) as stream:
            return sum(1 for _ in self._records(stream)) - 1

    def read(self, names: Sequence[str]) -> Iterator[Values | Malformed]:
        """Yield each record's values of these columns."""
        places = [self.names.index(name) for name in names]
        expected = len(self.names)
        with opened(self._path) as stream:
            for record in itertools.islice(self._records(stream), 1, None):
                if isinstance(record, Malformed):
                    yield record
                elif len(record) != expected:
                    problem = f"expected {expected} columns, found {len(record)}"
                    yield Malformed(self.delimiter.join(record), problem)
                else:
                    yield tuple([record[place] for place in places])

    def _records(self, stream: BinaryIO) -> Iterator[list[str] | Malformed]:
        if self._quoted_newlines:
            return csv_records(stream, self.delimiter)
        return (split_line(record, self.delimiter) for record in read_records(stream))


def find_column(
    path: Path, names: Sequence[str], given: str | None, known: frozenset[str], content: str, option: str
) -> str:
    """Return the one column of that name, or of a `known` one in any case. Raises SourceError otherwise."""
    matches = [name for name in names if (name == given if given is not None else name.lower() in known)]
    if len(matches) == 1:
        return matches[0]
    found = f"{len(matches)} ({', '.join(matches)})" if matches else "none"
    wanted = f"named {given!r}" if given is not None else f"of {content}"
    if not matches and any(name.startswith(("http://", "https://")) for name in names):
        raise SourceError(
            f"{path}: expected a header with a column {wanted}, found a URL in its first line; "
            "put the columns' names before it"
        )
    raise SourceError(
        f"{path}: expected one column {wanted}, found {found} among {shortened(', '.join(names), 500)}; "
        f"name it with {option}"
    )
