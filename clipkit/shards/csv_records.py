"""Comma- and tab-separated text as records, whatever its quotes."""

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from clipkit.shards.text_files import MAX_RECORD_BYTES, Malformed, read_lines

_READ_AGAIN, _QUOTED = 100, 10  # lines, and lines with quotes, of which each may cost all up to the end again


class _RecordTooLongError(Exception):
    pass


class _CsvLines:
    """What csv.reader is fed with: lines, of which those of the present record are remembered.

    If they are `placed`, `end` tells where the last of them ends in the stream, which is seekable then.
    """

    def __init__(self, stream: BinaryIO, *, placed: bool):
        self._lines = read_lines(stream)
        self._place = stream.tell if placed else None
        self._given_back = deque[tuple[str, int]]()
        self.end = 0
        self.begin()

    def begin(self) -> None:
        self.taken: list[str] = []
        self._ends: list[int] = []
        self._size = 0
        self.ran_out = False

    def give_back(self) -> None:
        """Take only the first line for the present record."""
        ends = self._ends or [0] * len(self.taken)
        self._given_back.extendleft(reversed(list(zip(self.taken, ends, strict=True))[1:]))
        self.taken, self.end = self.taken[:1], ends[0]

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        # A quote that is never closed ends here, not at the end of the file.
        if self._size >= MAX_RECORD_BYTES:
            raise _RecordTooLongError(f"longer than {MAX_RECORD_BYTES:,} characters")
        if self._given_back:
            line, self.end = self._given_back.popleft()
        else:
            try:
                line = next(self._lines).decode("utf-8", "replace")
            except StopIteration:
                self.ran_out = True
                raise
            if self._place:
                self.end = self._place()
        if self._place:
            self._ends.append(self.end)
        self.taken.append(line)
        self._size += len(line)
        return line


def csv_records(stream: BinaryIO, delimiter: str) -> Iterator[list[str] | Malformed]:
    """Yield the records of a CSV file; quoted values may hold newlines. Memory is bounded for any content.

    A value may have 131,072 characters and a record a mebibyte. Where a quote is closed by none that may
    close it, the line is a malformed record, and the next begins at the next line; so are all lines up to
    there together, if they are more than a hundred and more than ten of them have quotes.
    """
    return (record for _, record in _placed_records(_CsvLines(stream, placed=False), delimiter))


def csv_spans(stream: BinaryIO, delimiter: str) -> Iterator[tuple[int, list[str] | Malformed]]:
    """Yield where each record of a seekable CSV file ends, and the record, which depends on nothing before
    it. All else is as `csv_records` has it.
    """
    return _placed_records(_CsvLines(stream, placed=True), delimiter)


def _placed_records(lines: _CsvLines, delimiter: str) -> Iterator[tuple[int, list[str] | Malformed]]:
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        lines.begin()
        try:
            record = next(reader)
        except StopIteration:
            return
        except (csv.Error, _RecordTooLongError) as error:
            problem = f"not CSV: {error}"
        else:
            if not lines.ran_out and (len(lines.taken) < 2 or _fits(lines.taken, delimiter)):
                yield lines.end, record
                continue
            problem = "not CSV: a quote that is not closed"
        if len(lines.taken) <= _READ_AGAIN or sum('"' in line for line in lines.taken) <= _QUOTED:
            lines.give_back()
        yield lines.end, Malformed("".join(lines.taken), problem)


def _fits(lines: Sequence[str], delimiter: str) -> bool:
    # A quote in a value that is in quotes, but not doubled, was to close another one, or an earlier one.
    try:
        next(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        return False
    return True


def split_line(line: str, delimiter: str) -> list[str]:
    """Split a line that is one record; quotes count only where all of them fit, else they are text."""
    if '"' in line:
        try:
            return next(csv.reader([line], delimiter=delimiter, strict=True))
        except csv.Error:
            pass
    return line.split(delimiter)
