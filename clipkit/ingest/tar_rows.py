"""A sample of a tar as a row: its caption and fields are read, its picture stays where it lies."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clipkit.errors import SourceError
from clipkit.ingest.local_files import read_file
from clipkit.ingest.rows import Failed, Fetched, UrlRow
from clipkit.ingest.table_formats import as_text, is_nested, json_object
from clipkit.shards.cache import Cache
from clipkit.shards.cache import Wanted as Cached
from clipkit.shards.headers import CAPTIONS, PICTURES, dotted
from clipkit.shards.tar_reader import Member, Sample, TarReader
from clipkit.shards.text_files import MAX_RECORD_BYTES, Malformed, shortened

Fields = Mapping[str, Any]


class Described(NamedTuple):
    """A sample with its fields (of its json, or its row in a manifest) and the text of its txt member."""

    sample: Sample
    fields: Fields | Malformed
    text: str | Malformed | None


class Wanted(NamedTuple):
    """What is taken of the fields: the caption, if it shall not be the txt member, and those to keep."""

    caption: str | None
    keep: Sequence[str]


def describe(reader: TarReader, sample: Sample, manifest_row: Fields | None = None) -> Described:
    """Read the small members of a sample; its row in a manifest, if there is one, is in place of its json."""
    text = _text(reader, sample.members["txt"]) if "txt" in sample.members else None
    return Described(sample, manifest_row or _fields(reader, sample), text)


def row_of(tar: str | Cached, source: str, number: int, described: Described, wanted: Wanted) -> UrlRow:
    """Make sample `number` of the tar `source` a row, with a problem if its picture or caption is lacking."""
    fields = {} if isinstance(described.fields, Malformed) else described.fields
    members = described.sample.members
    picture = next((members[name] for name in PICTURES if name in members), None)
    caption = _caption(described, wanted.caption)
    url = as_text(fields.get("url")) or ""
    if problem := _problem(described, wanted, caption, picture):
        key = described.sample.key.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        text = caption if isinstance(caption, str) else ""
        return UrlRow(source, number, url, text, f"{shortened(key)}: {problem}")
    assert isinstance(caption, str) and picture is not None
    kept = {name: as_text(fields.get(name)) for name in wanted.keep} if wanted.keep else None
    span = (picture.offset, picture.size)
    return UrlRow(source, number, url, caption, kept=kept, file=tar, span=span)


class RowReader:
    """Reads the pictures of rows that have a file, and notices if the files' disk goes away."""

    def __init__(self) -> None:
        self._last: str | None = None

    def read(self, row: UrlRow, max_bytes: int) -> Fetched | Failed:
        """Return a row's picture: the file, or its part of a tar.

        Raises SourceError as `read_member`, and for a file that is not there if the one that was read last is
        gone, too: all others would fail for good.
        """
        assert row.file is not None
        if row.span is not None:
            return read_member(row.file, *row.span, max_bytes)
        assert isinstance(row.file, str)
        found = read_file(row.url, row.file, max_bytes)
        if isinstance(found, Fetched):
            self._last = row.file
        elif self._last and not os.path.exists(self._last) and not os.path.exists(row.file):  # noqa: PTH110
            raise SourceError(
                f"{shortened(row.file, 500)}: expected a picture, found neither it nor the one that was read "
                f"last, {shortened(self._last, 500)}; bring their disk back and run the same command again"
            )
        return found


def read_member(tar: str | Cached, offset: int, size: int, max_bytes: int) -> Fetched | Failed:
    """Return the picture of `size` bytes at `offset` of a tar; more than `max_bytes` is `too_large`.

    A tar behind an address is read through this machine's cache. Raises SourceError if the tar is no longer
    what it was, and as Cache.open.
    """
    if size > max_bytes:
        return Failed("too_large", f"more than {max_bytes:,} bytes")
    try:
        descriptor = (
            Cache().open(tar)
            if isinstance(tar, Cached)
            else os.open(tar, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        )
        try:
            data = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _changed(tar, f"that it cannot be read ({error.strerror})") from None
    if len(data) != size:
        raise _changed(tar, f"{len(data):,} of {size:,} bytes at {offset:,}")
    return Fetched(data, None, 1)


def _changed(tar: str | Cached, found: str) -> SourceError:
    place = tar.source if isinstance(tar, Cached) else tar
    return SourceError(
        f"{place}: expected the tar as it was when it was checked, found {found}; "
        "bring it back and run the same command again"
    )


def _problem(
    described: Described, wanted: Wanted, caption: str | Malformed, picture: Member | None
) -> str | None:
    if isinstance(caption, Malformed):
        return caption.problem
    if wanted.keep and isinstance(described.fields, Malformed):
        return described.fields.problem
    return None if picture else f"no picture ({', '.join(PICTURES)}) {_among(described.sample)}"


def _caption(described: Described, field: str | None) -> str | Malformed:
    if field is None and described.text is not None:
        return described.text
    if isinstance(described.fields, Malformed):
        return described.fields
    names = CAPTIONS if field is None else (field,)
    fields = described.fields
    there = [name for name in names if name in fields]
    # A string goes before all else, and unless the field was named only one counts: as for a stream of tars.
    found = min(there, key=lambda name: not isinstance(fields[name], str), default=None)
    if found is not None:
        value = fields[found]
        if is_nested(value):
            return Malformed("", f"the field {found} of its json is a list or an object, no text")
        if field is None and not isinstance(value, str):
            taken = "" if value is None else ", which is taken with --caption-col alone"
            return Malformed(
                "", f"the field {found} of its json is no text but {json.dumps(value)[:40]}{taken}"
            )
        return as_text(value) or ""
    txt = "no txt member and " if field is None else ""
    return Malformed("", f"{txt}no field {' or '.join(names)} of a json {_among(described.sample)}")


def _among(sample: Sample) -> str:
    return f"among the members that follow one another{dotted(sample)}"


def _fields(reader: TarReader, sample: Sample) -> Fields | Malformed:
    if "json" not in sample.members:
        return {}
    text = _text(reader, sample.members["json"])
    return text if isinstance(text, Malformed) else json_object(text.removeprefix("\ufeff"))


def _text(reader: TarReader, member: Member) -> str | Malformed:
    if member.size > MAX_RECORD_BYTES:
        kind = member.name.rpartition(".")[2].lower()
        return Malformed("", f"a {kind} member of more than {MAX_RECORD_BYTES:,} bytes")
    return reader.read(member).decode("utf-8", "replace")
