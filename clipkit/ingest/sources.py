"""Lists of URLs as streams of rows. Every record becomes a row; what is no URL and caption says why.

Files are read as bytes and split at newlines only: captions hold any other character, and quotes mean
nothing. Memory does not grow with their length.
"""

import hashlib
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clipkit.errors import SourceError
from clipkit.ingest.rows import Chunk, UrlRow
from clipkit.shards.dataset import SourceFile

MAX_RECORD_BYTES = 1 << 20
_RECORDS_LOOKED_AT = 100
_URL = re.compile(r"\s*https?://", re.IGNORECASE)
_VALIDATION = re.compile(r"(?<![a-z])val", re.IGNORECASE)

Parse = Callable[[str, int, str], UrlRow]
"""(source name, record number, the record's text) → its row."""


@dataclass(frozen=True)
class Source:
    """Files of records, in order. `files` identify them, `records` is how many there are in all."""

    files: tuple[SourceFile, ...]
    records: int
    _paths: tuple[Path, ...]
    _parse: tuple[Parse, ...]

    def __iter__(self) -> Iterator[UrlRow]:
        """Yield one row a record, file by file. Raises SourceError if a file cannot be read."""
        for file, path, parse in zip(self.files, self._paths, self._parse, strict=True):
            with _opened(path) as stream:
                for number, record in enumerate(read_records(stream)):
                    yield parse(file.name, number, record)


def chunks(rows: Iterable[UrlRow], size: int, limit: int | None = None) -> Iterator[Chunk]:
    """Cut the first `limit` rows (all if None) into chunks of `size`, the last one perhaps shorter."""
    remaining = itertools.islice(rows, limit)
    for number in itertools.count():
        taken = tuple(itertools.islice(remaining, size))
        if not taken:
            return
        yield Chunk(number, taken)


def conceptual_captions(paths: Sequence[Path]) -> Source:
    """Open lists in the form of Conceptual Captions 3M (caption⇥URL) or 12M (URL⇥caption).

    No header, no quoting; which column holds the URL is decided once per file from its first records.
    Invalid UTF-8 becomes U+FFFD. Raises SourceError for a missing or empty file, one without a URL
    column, files that are given twice, and a mixture of training and validation files.
    """
    _refuse_mixed_splits(paths)
    names = _unique_names(paths)
    files, parses, records = [], [], 0
    for path, name in zip(paths, names, strict=True):
        parses.append(_parser(_url_column(path)))
        file, count = _identify(path, name)
        files.append(file)
        records += count
    return Source(tuple(files), records, tuple(paths), tuple(parses))


def read_records(stream: BinaryIO) -> Iterator[str]:
    r"""Yield the records of a text file: split at `\n`, a trailing `\r` removed, decoded as UTF-8.

    An empty last line is no record. Of a record longer than MAX_RECORD_BYTES only that many are kept.
    """
    first = True
    while line := stream.readline(MAX_RECORD_BYTES):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_RECORD_BYTES)
        if first:
            line = line.removeprefix(b"\xef\xbb\xbf")
            first = False
        yield line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "replace")


def _parser(url_column: int) -> Parse:
    def parse(source: str, number: int, record: str) -> UrlRow:
        columns = record.split("\t")
        if len(columns) == 2:
            return UrlRow(source, number, columns[url_column].strip(), columns[1 - url_column])
        return UrlRow(source, number, "", record, f"expected 2 columns, found {len(columns)}")

    return parse


def _url_column(path: Path) -> int:
    with _opened(path) as stream:
        looked_at = list(itertools.islice(read_records(stream), _RECORDS_LOOKED_AT))
    if not looked_at:
        raise SourceError(f"{path}: expected a list of captions and URLs, found an empty file")
    rows = [columns for record in looked_at if len(columns := record.split("\t")) == 2]
    votes = [sum(bool(_URL.match(columns[side])) for columns in rows) for side in (0, 1)]
    if not any(votes):
        first = looked_at[0] if len(looked_at[0]) <= 80 else looked_at[0][:79] + "…"
        raise SourceError(
            f"{path}: expected lines of caption<TAB>URL or URL<TAB>caption without a header, "
            f"found no URL column in the first {len(looked_at)}; the first is {first!r}"
        )
    return 0 if votes[0] > votes[1] else 1


def _identify(path: Path, name: str) -> tuple[SourceFile, int]:
    digest, size, newlines, last = hashlib.sha256(), 0, 0, b"\n"
    with _opened(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            size += len(block)
            newlines += block.count(b"\n")
            last = block[-1:]
    return SourceFile(name=name, bytes=size, sha256=digest.hexdigest()), newlines + (last != b"\n")


def _unique_names(paths: Sequence[Path]) -> list[str]:
    # The file's name, with as many of its folders as it takes to tell the files apart.
    absolute = [path.absolute() for path in paths]
    if len(set(absolute)) < len(absolute):
        raise SourceError(f"{max(absolute, key=absolute.count)}: expected each file once, found it twice")
    for depth in itertools.count(1):
        parts = (os.fsencode("/".join(path.parts[-depth:])) for path in absolute)
        names = [part.decode("utf-8", "replace") for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _refuse_mixed_splits(paths: Sequence[Path]) -> None:
    if not paths:
        raise SourceError("expected at least one list of URLs, found none")
    validation = [path for path in paths if _VALIDATION.search(path.name)]
    training = [path for path in paths if "train" in path.name.lower() and path not in validation]
    if training and validation:
        calls = [f"`clipkit ingest cc {' '.join(map(str, part))}`" for part in (training, validation)]
        raise SourceError(
            "expected files of one split, found training and validation files: one dataset is one split; "
            f"make two calls, {calls[0]} and {calls[1]}"
        )


def _opened(path: Path) -> BinaryIO:
    try:
        stream = path.open("rb")
        if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            return stream
        stream.close()
        raise SourceError(
            f"{path}: expected a regular file, which is read more than once, found a pipe or device"
        )
    except OSError as error:
        raise SourceError(
            f"{path}: expected a list of URLs, found that it cannot be read ({error.strerror})"
        ) from None
