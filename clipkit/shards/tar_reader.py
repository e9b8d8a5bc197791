"""Tars that other tools wrote, as samples: by their headers alone, nothing unpacked and no link followed.

The formats are ustar, GNU's with its long names, and pax (POSIX.1-2001). The samples are webdataset's:
members that follow one another and whose paths agree up to the first dot of the name.
"""

import os
import re
import stat
from collections.abc import Container, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from clipkit.errors import DatasetError
from clipkit.shards.format import BLOCK_BYTES, HEADER_BYTES, padding

MAX_EXTENDED_BYTES = 1 << 20  # of a long name or of pax records
_AT_ONCE = 8192  # what lies between two pictures, usually
_ZEROS = bytes(BLOCK_BYTES)
_CHECKSUM = slice(148, 156)
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, directories, pipes
_PAX = (b"x", b"X", b"g")
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ([^=]+)=", re.DOTALL)
_PAGE = ", but a web page or the like: name each tar, or all by a pattern, as web servers list no folders"
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_META = re.compile(r"__[^/]*__(?:/|$)")


class Member(NamedTuple):
    """A regular file in a tar: its path there, and its content's byte range."""

    name: str
    offset: int
    size: int


class Sample(NamedTuple):
    """Members of one key, by their extensions in lower case; `first` is that of the first, wanted or not."""

    key: str
    members: dict[str, Member]
    first: str


class Entry(NamedTuple):
    """What a tar holds at one place: `kind` says whether that is a file, or a link, a device, a folder."""

    member: Member
    kind: bytes

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.kind in _REGULAR and not self.member.name.endswith("/")


class Header(NamedTuple):
    """A member's header: its path, the size of its content, and of which kind it is (b"0": a file)."""

    name: bytes
    size: int
    kind: bytes


class TarReader:
    """A tar of this machine, held open. Memory is bounded for any content.

    A `descriptor` of it, if there is one, becomes the reader's own. Raises DatasetError, which names the
    byte, for what is no tar, compressed, cut off, damaged, or has sparse members.
    """

    def __init__(self, path: Path, descriptor: int | None = None):
        self.path = path
        self._descriptor = self._opened() if descriptor is None else descriptor
        found = os.fstat(self._descriptor)
        self._end = found.st_size
        self._headers = Window(self._descriptor)
        self._contents = Window(self._descriptor)
        try:
            self._check(found)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def read(self, member: Member) -> bytes:
        """Return a small member's content."""
        return self._contents.at(member.offset, member.size)

    def samples(self, wanted: Container[str]) -> Iterator[Sample]:
        """Yield the samples in order, with the members whose extension is one of `wanted`.

        A second member of the same name begins another sample, as in OpenCLIP's reader. Members without an
        extension, hidden ones, and webdataset's own (`__…__`) belong to none.
        """
        sample: Sample | None = None
        for member in self.members():
            key, suffix = _key_and_suffix(member.name)
            if not key:
                continue
            if sample is None or key != sample.key or suffix in sample.members:
                if sample:
                    yield sample
                sample = Sample(key, {}, suffix)
            if suffix in wanted:
                sample.members[suffix] = member
        if sample:
            yield sample

    def members(self) -> Iterator[Member]:
        """Yield the regular files in order; links, directories and devices are skipped."""
        return (entry.member for entry in self.entries() if entry.is_file)

    def entries(self) -> Iterator[Entry]:
        """Yield all that the tar holds in order, of any kind."""
        place = 0
        for_all: dict[bytes, bytes] = {}
        for_next: dict[bytes, bytes] = {}
        while header := self._header(place):
            content = place + HEADER_BYTES
            if header.kind in _PAX or header.kind in (b"L", b"K"):
                extended = self._extended(place, header)
                (for_all if header.kind == b"g" else for_next).update(extended)
                place = self._following(content, header)
                continue
            if for_all or for_next:
                header = self._with(place, header, for_all | for_next)
                for_next = {}
            elif header.kind == b"S":
                raise self._sparse(place)
            place = self._following(content, header)
            member = Member(header.name.decode("utf-8", "surrogateescape"), content, header.size)
            yield Entry(member, header.kind)

    def check_end(self) -> None:
        """Look at the end, where a tar that was cut off has no zeros; what is wrong is then found exactly."""
        if os.pread(self._descriptor, 2 * BLOCK_BYTES, max(0, self._end - 2 * BLOCK_BYTES)) != 2 * _ZEROS:
            for _ in self.members():
                pass

    def _opened(self) -> int:
        try:
            # Not waiting for a writer, should it be a pipe.
            return os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise DatasetError(
                f"{self.path}: expected a tar, found that it cannot be read ({error.strerror})"
            ) from None

    def _check(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise DatasetError(f"{self.path}: expected a tar, found no regular file")
        if os.pread(self._descriptor, 8, 0).startswith(_COMPRESSED):
            raise DatasetError(
                f"{self.path}: expected a tar as it is, found a compressed one, whose members cannot be read "
                "where they lie; unpack it"
            )

    def _header(self, place: int) -> Header | None:
        block = self._headers.at(place, HEADER_BYTES)
        if len(block) < HEADER_BYTES and not place:
            raise self._damaged(0, f"a tar header, found a file of {len(block)} bytes (was it cut off?)")
        if len(block) < HEADER_BYTES:
            raise DatasetError(
                f"{self.path}: expected zeros at byte {place:,}, where a tar ends, found the file's end; "
                "was it cut off? Get it again or leave it out; if it is whole, "
                f"`truncate -s +{2 * BLOCK_BYTES}` adds them"
            )
        if block == _ZEROS:
            self._check_rest(place)
            return None
        if (header := parsed_header(block)) is None:
            page = _PAGE if block.startswith(b"<") and not place else ""
            raise self._damaged(place, f"a tar header, found none ({block[:8].hex(' ')} …){page}")
        return header

    def _check_rest(self, place: int) -> None:
        while rest := self._headers.at(place, 1 << 16):
            if rest.count(0) < len(rest):
                raise self._damaged(
                    place,
                    "nothing but zeros from where the tar ends, found more; are these tars joined to one?",
                )
            place += len(rest)

    def _extended(self, place: int, header: Header) -> dict[bytes, bytes]:
        if header.size > MAX_EXTENDED_BYTES:
            raise self._damaged(
                place, f"at most {MAX_EXTENDED_BYTES:,} bytes of name or pax records, found {header.size:,}"
            )
        content = self._headers.at(place + HEADER_BYTES, header.size)
        if len(content) < header.size:
            raise self._cut_off(place + HEADER_BYTES, header)
        if header.kind == b"K":
            return {}
        if header.kind == b"L":
            return {b"path": content.partition(b"\0")[0]}
        records = _pax_records(content)
        if records is None:
            raise self._damaged(place, "pax records, found something else")
        return records

    def _with(self, place: int, header: Header, extended: dict[bytes, bytes]) -> Header:
        if header.kind == b"S" or b"sparse" in extended:
            raise self._sparse(place)
        size = extended.get(b"size", b"%d" % header.size)
        if not re.fullmatch(rb"[0-9]{1,20}", size):
            raise self._damaged(place, f"a size in pax records, found {size[:20]!r}")
        return Header(extended.get(b"path", header.name), int(size), header.kind)

    def _following(self, content: int, header: Header) -> int:
        size = 0 if header.kind in _WITHOUT_CONTENT else header.size
        if content + size > self._end:
            raise self._cut_off(content, header)
        return content + size + padding(size)

    def _cut_off(self, content: int, header: Header) -> DatasetError:
        name = header.name[-100:].decode("utf-8", "replace")
        return DatasetError(
            f"{self.path}: expected {header.size:,} bytes of {name!r} at byte {content:,}, found the file's "
            f"end at {self._end:,}; was it cut off? Get it again or leave it out"
        )

    def _sparse(self, place: int) -> DatasetError:
        return self._damaged(place, "a plain member, found a sparse one; pack it without --sparse")

    def _damaged(self, place: int, words: str) -> DatasetError:
        return DatasetError(
            f"{self.path}: expected at byte {place:,} {words}; get the tar again or leave it out"
        )


class Window:
    """Reads at places that rise: what was read at once may serve several."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._start = 0
        self._bytes = b""

    def at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset` on: fewer where the file ends."""
        start = offset - self._start
        if start < 0 or start + size > len(self._bytes):
            self._bytes = os.pread(self._descriptor, max(size, _AT_ONCE), offset)
            self._start, start = offset, 0
        return self._bytes[start : start + size]


def parsed_header(block: bytes) -> Header | None:
    """Return what a header of 512 bytes says; None if it is none, or damaged."""
    checksum, size = _number(block[_CHECKSUM]), _number(block[124:136])
    if size is None or checksum != sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" "):
        return None
    name = block[:100].partition(b"\0")[0]
    if block.startswith(b"ustar\0", 257) and block[345]:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return Header(name, size, block[156:157])


def _number(field: bytes) -> int | None:
    if field[0] == 0x80:  # GNU's form for what has more than eleven octal digits; 0xff begins a negative one
        return int.from_bytes(field[1:], "big")
    octal = _OCTAL.fullmatch(field)
    return int(octal[1] or b"0", 8) if octal else None


def _pax_records(content: bytes) -> dict[bytes, bytes] | None:
    """Return the records that matter here, `sparse` for all that make a member one; None if they are none."""
    found: dict[bytes, bytes] = {}
    content, place = content.rstrip(b"\0"), 0
    while place < len(content):
        record = _PAX_RECORD.match(content, place)
        end = place + int(record[1]) if record else 0
        if record is None or not record.end() < end <= len(content) or content[end - 1] != ord("\n"):
            return None
        if record[2] in (b"path", b"size"):
            found[record[2]] = content[record.end() : end - 1]
        elif record[2].startswith(b"GNU.sparse."):
            found[b"sparse"] = b""
        place = end
    return found


def _key_and_suffix(name: str) -> tuple[str, str]:
    folder = name.rfind("/") + 1
    dot = name.find(".", folder)
    if dot <= folder or (name.startswith("__") and _META.match(name)):
        return "", ""
    return name[:dot], name[dot + 1 :].lower()
