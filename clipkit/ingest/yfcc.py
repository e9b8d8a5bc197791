"""OpenAI's subset of YFCC100M (Thomee et al., 2016): a list of photos, and the metadata that describes them.

The subset names photos by line number, photo id and hash; title, description and download URL stand in the
metadata: the text file `yfcc100m_dataset` of 25 columns, or the SQLite file `yfcc100m_dataset.sql`.
"""

import html
import itertools
import re
import sqlite3
import struct
from collections.abc import Generator, Iterator
from contextlib import closing
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_plus
from zlib import crc32

import numpy as np

from clipkit import scratch
from clipkit.errors import SourceError, tell
from clipkit.ingest.list_files import at_hand, identify_all
from clipkit.ingest.rows import UrlRow
from clipkit.ingest.sources import Source, unique_names
from clipkit.shards.text_files import check_utf8, count_lines, opened, read_lines, read_records, shortened

CAPTIONS = ("title", "description", "both")
MIRROR = "https://multimedia-commons.s3-us-west-2.amazonaws.com/data/images"
_COLUMNS = 25
_LINES_LOOKED_AT = 100
_WANTED = re.compile(r"(\d{1,9})\t(\d{1,18})\t([0-9a-f]{6,40})", re.ASCII)
_ROW, _PLACE = struct.Struct("<IIIq"), struct.Struct("<Q")  # of a subset that is sorted on disk
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_SQLITE = b"SQLite format 3\0"
_QUERY = "SELECT title, description, downloadurl, marker FROM yfcc100m_dataset WHERE photoid = ?"


class _Wanted(NamedTuple):
    """A record of the subset; without a photo it is none, and `text` is what it is instead.

    `check` is the CRC-32 of its hash, which one out of order no longer has.
    """

    record: int
    line: int
    photo: int | None
    hash: str
    check: int
    text: str


class _Photo(NamedTuple):
    """What the metadata says: texts URL-encoded, with HTML; `marker` 0 is a photo, 1 a video."""

    title: str
    description: str
    url: str
    hash: str
    marker: str


def yfcc(subset: Path, metadata: Path, caption: str = "both", *, mirror: bool = False) -> Source:
    """Open a subset of YFCC100M; `caption` is one of CAPTIONS, `mirror` takes pictures from MIRROR.

    Rows come in the subset's order, which the metadata's text is streamed beside; from a subset that is not
    in order of its line numbers, which is said, those of each stretch of it come in that order instead, from
    temporary files of 28 bytes a row (and a failure's text lacks the hash). The SQLite file is asked photo
    by photo, in the subset's order. Raises SourceError for files that cannot be read as such.
    """
    names = unique_names([subset, metadata])
    subset, metadata = at_hand([subset, metadata])
    in_order = _check(subset)
    with opened(metadata) as stream:
        sqlite = stream.read(len(_SQLITE)) == _SQLITE
    if sqlite:
        with closing(_connected(metadata)):
            pass
    else:
        _check_metadata(metadata)
        if not in_order:
            tell(
                f"yfcc: {subset} is not in order of its line numbers: its photos come in the metadata's "
                "order, and with --limit the first may come late"
            )

    def read(first: int = 0, records: int | None = None) -> Generator[UrlRow]:
        with closing(_wanted(subset)) as every:
            wanted = itertools.islice(every, first, None if records is None else first + records)
            if sqlite:
                found = _looked_up(wanted, metadata)
            else:
                found = _beside(wanted if in_order else _sorted(wanted), metadata)
            for row, photo in found:
                yield _row(names[0], row, photo, caption, mirror)

    reading: dict[str, str | bool] = {"kind": "yfcc", "caption": caption, "mirror": mirror}
    files = identify_all([subset, metadata], names)  # minutes: what is wrong is better known before
    return Source(files, count_lines(subset), read, reading, read_stretch=read)


def plain(encoded: str) -> str:
    """Return the text of a title or description: URL-decoded, without HTML's tags and entities, one line."""
    return " ".join(html.unescape(_TAG.sub(" ", unquote_plus(encoded))).split())


def _row(source: str, wanted: _Wanted, photo: _Photo | str, caption: str, mirror: bool) -> UrlRow:
    if isinstance(photo, str):
        return UrlRow(source, wanted.record, "", wanted.text, photo)
    texts = {"title": [photo.title], "description": [photo.description]}
    text = " ".join(filter(None, map(plain, texts.get(caption, [photo.title, photo.description]))))
    if photo.marker != "0":
        return UrlRow(source, wanted.record, photo.url, text, "a video")
    name = wanted.hash or photo.hash
    url = f"{MIRROR}/{name[:3]}/{name[3:6]}/{name}.jpg" if mirror else photo.url
    return UrlRow(source, wanted.record, url, text)


def _wanted(subset: Path) -> Generator[_Wanted]:
    with opened(subset) as stream:
        for number, record in enumerate(read_records(stream)):
            match = _WANTED.fullmatch(record)
            if match:
                check = crc32(match[3].encode())
                yield _Wanted(number, int(match[1]), int(match[2]), match[3], check, record)
            else:
                yield _Wanted(number, -1, None, "", 0, record)


def _check(subset: Path) -> bool:
    """Tell whether the subset is in order of its line numbers."""
    in_order, before, good, first = True, -1, False, None
    for wanted in _wanted(subset):
        first = first or wanted
        if wanted.photo is not None:
            in_order, before, good = in_order and wanted.line >= before, wanted.line, True
    if not good:
        check_utf8(subset, first.text if first else "")
        found = repr(shortened(first.text)) if first else "an empty file"
        raise SourceError(
            f"{subset}: expected lines of line number<TAB>photo id<TAB>hash, found {found}; "
            "give the file yfcc100m_subset_data.tsv"
        )
    return in_order


def _check_metadata(metadata: Path) -> None:
    """Raise SourceError for what is another file by its first lines: of it every photo would be missing."""
    with opened(metadata) as stream:
        lines = list(itertools.islice(read_records(stream), _LINES_LOOKED_AT))
    if not any(line.count("\t") == _COLUMNS - 1 and line.partition("\t")[0].isdigit() for line in lines):
        found = f"{lines[0].count(chr(9)) + 1} in {shortened(lines[0])!r}" if lines else "an empty file"
        raise SourceError(
            f"{metadata}: expected lines of {_COLUMNS} columns, the first a line's number, found {found}; "
            "give the file yfcc100m_dataset, or yfcc100m_dataset.sql"
        )


def _sorted(unsorted: Iterator[_Wanted]) -> Iterator[_Wanted]:
    with scratch.folder() as folder:  # on disk: memory must not grow with the list
        count = 0
        with (
            scratch.told_if_full("the subset's records, to sort them"),
            (folder / "rows").open("wb") as rows,
            (folder / "order").open("wb") as order,
        ):
            for wanted in unsorted:
                if wanted.photo is None:
                    yield wanted
                    continue
                rows.write(_ROW.pack(wanted.record, wanted.line, wanted.check, wanted.photo))
                order.write(_PLACE.pack(wanted.line << 32 | count))
                count += 1
        if not count:
            return
        places = np.memmap(folder / "order", np.uint64, mode="r+")
        places.sort()
        with (folder / "rows").open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as stored:
            for place in places:
                record, line, check, photo = _ROW.unpack_from(stored, (int(place) & 0xFFFFFFFF) * _ROW.size)
                yield _Wanted(record, line, photo, "", check, f"{line}\t{photo}")


def _beside(wanted: Iterator[_Wanted], metadata: Path) -> Iterator[tuple[_Wanted, _Photo | str]]:
    described = _lines(metadata)
    number, line = next(described, (None, b""))
    for row in wanted:
        if row.photo is None:
            yield row, "expected line number, photo id and hash"
            continue
        while number is not None and number < row.line:
            number, line = next(described, (None, b""))
        if number == row.line:
            yield row, _parsed(line, row)
        else:
            yield row, f"line {row.line} is not in the metadata"


def _lines(metadata: Path) -> Iterator[tuple[int, bytes]]:
    before = -1
    with opened(metadata) as stream:
        for line in read_lines(stream):
            digits = line[: max(0, line.find(b"\t"))]
            if not digits.isdigit() or len(digits) > 9:
                continue
            number = int(digits)
            if number < before:
                raise SourceError(
                    f"{metadata}: expected lines in order of their numbers, found {number} after {before}; "
                    "sort the file by its first column"
                )
            before = number
            yield number, line


def _parsed(line: bytes, wanted: _Wanted) -> _Photo | str:
    columns = line.rstrip(b"\r\n").decode("utf-8", "replace").split("\t")
    if len(columns) != _COLUMNS:
        return f"line {wanted.line} of the metadata has {len(columns)} columns, not {_COLUMNS}"
    if columns[1] != str(wanted.photo):
        return f"line {wanted.line} of the metadata is photo {columns[1][:20]}, not {wanted.photo}"
    if crc32(columns[2].encode()) != wanted.check:
        of_subset = f", not {wanted.hash}" if wanted.hash else ", another than the subset's"
        return f"line {wanted.line} of the metadata has the hash {columns[2][:40]}{of_subset}"
    return _Photo(columns[8], columns[9], columns[16], columns[2], columns[24])


def _looked_up(wanted: Iterator[_Wanted], metadata: Path) -> Iterator[tuple[_Wanted, _Photo | str]]:
    with closing(_connected(metadata)) as connection:
        for row in wanted:
            if row.photo is None:
                yield row, "expected line number, photo id and hash"
                continue
            try:
                found = connection.execute(_QUERY, (row.photo,)).fetchone()
            except sqlite3.Error as error:
                raise _no_database(metadata, error) from None
            if found is None:
                yield row, f"photo {row.photo} is not in the metadata"
            else:
                title, description, url, marker = map(_text, found)
                yield row, _Photo(title, description, url, row.hash, marker)


def _connected(metadata: Path) -> sqlite3.Connection:
    # By its descriptor, as what lies behind an address has no name of its own here.
    with metadata.open("rb") as file:
        connection = sqlite3.connect(f"file:/proc/self/fd/{file.fileno()}?mode=ro", uri=True)
    try:
        connection.text_factory = bytes
        connection.execute("PRAGMA trusted_schema = OFF")
        plan = connection.execute(f"EXPLAIN QUERY PLAN {_QUERY}", (0,)).fetchall()
    except sqlite3.Error as error:
        connection.close()
        raise _no_database(metadata, error) from None
    if not any(_text(step[3]).startswith("SEARCH") for step in plan):
        connection.close()
        raise SourceError(
            f"{metadata}: expected an index on photoid, found none; make one with "
            f"`sqlite3 {metadata} 'CREATE INDEX photo ON yfcc100m_dataset (photoid)'`"
        )
    return connection


def _no_database(metadata: Path, error: sqlite3.Error) -> SourceError:
    return SourceError(
        f"{metadata}: expected the SQLite table yfcc100m_dataset with photoid, title, description, "
        f"downloadurl and marker, found: {error}; give the metadata as published"
    )


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)
