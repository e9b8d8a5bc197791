"""Comma- and tab-separated text as records, whatever its quotes."""

import csv
from collections.abc import Iterator
from typing import BinaryIO

from clipkit.shards.text_files import MAX_RECORD_BYTES, Malformed, read_lines


class _RecordTooLongError(Exception):
    pass


class _CsvLines:
    """What csv.reader is fed with: lines, of which those of the present record are remembered."""

    def __init__(self, stream: BinaryIO):
        self._lines = read_lines(stream)
        self.begin()

    def begin(self) -> None:
        self._taken: list[str] = []
        self._size = 0

    @property
    def text(self) -> str:
        return "".join(self._taken)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        # A quote that is never closed ends here, not at the end of the file.
        if self._size >= MAX_RECORD_BYTES:
            raise _RecordTooLongError(f"longer than {MAX_RECORD_BYTES:,} characters")
        line = next(self._lines).decode("utf-8", "replace")
        self._taken.append(line)
        self._size += len(line)
        return line


def csv_records(stream: BinaryIO, delimiter: str) -> Iterator[list[str] | Malformed]:
    """Yield the records of a CSV file; quoted values may hold newlines. Memory is bounded for any content.

    A value may have 131,072 characters and a record a mebibyte; what has more, as after a quote that is
    never closed, is one malformed record, and the next begins at the next line.
    """
    lines = _CsvLines(stream)
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        lines.begin()
        try:
            yield next(reader)
        except StopIteration:
            return
        except (csv.Error, _RecordTooLongError) as error:
            yield Malformed(lines.text, f"not CSV: {error}")


def split_line(line: str, delimiter: str) -> list[str]:
    """Split a line that is one record; quotes count only where all of them fit, else they are text."""
    if '"' in line:
        try:
            return next(csv.reader([line], delimiter=delimiter, strict=True))
        except csv.Error:
            pass
    return line.split(delimiter)
