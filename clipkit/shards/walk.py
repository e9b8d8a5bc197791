"""A shard's tar, read by its own headers: which samples it holds, and each byte that is not as it must be."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from clipkit.shards.faults import LISTED_OF_FILE, Faults
from clipkit.shards.format import (
    BLOCK_BYTES,
    HEADER_BYTES,
    SHARD_SAMPLES,
    padding,
    sample_key,
    tar_end,
    tar_header,
)
from clipkit.shards.layout import Placed, Row, placed
from clipkit.shards.tar_reader import Window, parsed_header

_NAME = re.compile(r"(\d{9})\.([0-9a-z]{1,16})")
_ZEROS = bytes(BLOCK_BYTES)
_MAX_CAPTION_BYTES = 1 << 24
_MOST_MEMBERS = 4 * SHARD_SAMPLES
_WITHOUT_CONTENT = b"123456"


class Found(NamedTuple):
    """A whole sample of a tar: its number in the shard, its extension, its byte ranges, its caption."""

    number: int
    ext: str
    place: Placed
    caption: bytes


class _Member(NamedTuple):
    name: str
    place: int  # of its header
    size: int
    block: bytes

    @property
    def content(self) -> int:
        return self.place + HEADER_BYTES


class Walked(NamedTuple):
    """The whole samples of a tar, in their order, and what was wrong with the rest."""

    samples: list[Found]
    faults: Faults


def walk(descriptor: int, size: int, tar: str, rows: Sequence[Row] | None) -> Walked:
    """Read the tar of `size` bytes that a dataset names `tar`, header by header.

    A fault is what is not as the format has it, or other than the manifest's `rows` say. After a damaged
    header the walk goes on at the next one. Memory is bounded for any content. Raises OSError as
    reading does.
    """
    walked = Walked([], Faults(LISTED_OF_FILE))
    one = _Walk(descriptor, size, tar, rows, walked.faults)
    one.enumerate()
    if one.is_of_this_shard():
        walked.samples.extend(one.samples())
    return walked


class _Walk:
    def __init__(self, descriptor: int, size: int, tar: str, rows: Sequence[Row] | None, faults: Faults):
        self._headers, self._contents = Window(descriptor), Window(descriptor)
        self._size = size
        self._tar = tar
        self._shard = int(tar[:6])
        self._rows = rows
        self._faults = faults
        self._members: list[_Member] = []

    def enumerate(self) -> None:
        """Find the members, whatever they are, and check where the tar ends."""
        hints = self._hints()
        place = 0
        while len(self._members) <= _MOST_MEMBERS:
            block = self._headers.at(place, HEADER_BYTES)
            if len(block) < HEADER_BYTES:
                self._fault("end", "expected zeros, where a tar ends, found the file's end; cut off?", place)
                return
            if block == _ZEROS:
                self._check_end(place)
                return
            member = self._member(block, place, hints)
            if member is None:
                return
            place = member.content + (0 if block[156:157] in _WITHOUT_CONTENT else member.size)
            if place > self._size:
                words = f"expected {member.size:,} bytes, found the file's end at {self._size:,}; cut off?"
                self._fault("end", words, member.content, member.name)
                return
            self._members.append(member)
            self._check_padding(member, place)
            place += padding(member.size)
        self._fault(
            "header", f"expected {2 * SHARD_SAMPLES:,} members, found more than {_MOST_MEMBERS:,}", place
        )

    def _hints(self) -> dict[int, _Member]:
        """Where the manifest has which member."""
        hints = {}
        for number, (row, where) in enumerate(zip(self._rows or (), placed(self._rows or ()), strict=True)):
            key = sample_key(self._shard, number)
            for name, content, size in (
                (f"{key}.{row.ext}", where.image_offset, row.image_bytes),
                (f"{key}.txt", where.caption_offset, len(row.caption)),
            ):
                place = content - HEADER_BYTES
                hints[place] = _Member(name, place, size, b"")
        return hints

    def _member(self, block: bytes, place: int, hints: Mapping[int, _Member]) -> _Member | None:
        """Return the member whose header must be here; for a damaged one, who it was, or the next one."""
        if header := parsed_header(block):
            return _Member(header.name.decode("utf-8", "replace"), place, header.size, block)
        if hint := hints.get(place):
            wanted = tar_header(hint.name, hint.size)
            byte = place + _first_difference(block, wanted)
            self._fault("header", "expected a whole header, found a damaged one", byte, hint.name)
            return hint._replace(block=wanted)
        self._fault("header", f"expected a tar header, found none ({block[:8].hex(' ')} …)", place)
        while len(block) == HEADER_BYTES:
            place += BLOCK_BYTES
            block = self._headers.at(place, HEADER_BYTES)
            header = parsed_header(block) if block.startswith(b"0") and len(block) == HEADER_BYTES else None
            if header and _NAME.fullmatch(name := header.name.decode("utf-8", "replace")):
                return _Member(name, place, header.size, block)
        return None

    def _check_padding(self, member: _Member, end: int) -> None:
        zeros = padding(member.size)
        found = self._headers.at(end, zeros) if zeros else b""
        if found.count(0) < len(found):
            byte = end + len(found) - len(found.lstrip(b"\0"))
            self._fault("padding", "expected zeros behind the member, found others", byte, member.name)

    def _check_end(self, place: int) -> None:
        wanted = len(tar_end(place))
        if place + wanted != self._size:
            words = f"expected the tar to end at byte {place + wanted:,}, found it to end at {self._size:,}"
            self._fault("end", words, place)
        while rest := self._headers.at(place, 1 << 16):
            if rest.count(0) < len(rest):
                byte = place + len(rest) - len(rest.lstrip(b"\0"))
                self._fault("end", "expected nothing but zeros where the tar ends, found others", byte)
                return
            place += len(rest)

    def is_of_this_shard(self) -> bool:
        """Tell whether the members bear keys of this shard; if not, that is one fault."""
        match = _NAME.fullmatch(self._members[0].name) if self._members else None
        shard = int(match[1]) // SHARD_SAMPLES if match else self._shard
        if shard == self._shard:
            return True
        words = f"expected the members of shard {self._shard:06d}, found those of shard {shard:06d}; swapped?"
        self._fault("key", words, 0, self._members[0].name)
        return False

    def samples(self) -> list[Found]:
        """Return the whole samples; name what is missing, too many, or in another order."""
        by_key: dict[str, list[_Member]] = {}
        for member in self._members:
            by_key.setdefault(member.name[:9] if self._is_ours(member) else "", []).append(member)
        for member in by_key.pop("", ()):
            words = "expected pictures and captions of this shard, found a member of another kind"
            self._fault("header", words, member.place, member.name)
        last = int(max(by_key, default="0")) % SHARD_SAMPLES
        count = len(self._rows) if self._rows is not None else last + 1 if by_key else 0
        found = []
        for number in range(max(count, last + 1 if by_key else 0)):
            key = sample_key(self._shard, number)
            if number >= count:
                for member in by_key.get(key, ()):
                    self._fault("header", "expected no such member, found one", member.place, member.name)
            elif sample := self._sample(number, key, by_key.get(key, [])):
                found.append(sample)
        for one, other in pairwise(found):
            if one.place.image_offset > other.place.image_offset:
                before, key = (sample_key(self._shard, each.number) for each in (one, other))
                words = f"expected the samples in the order of their keys, found this one before {before}"
                self._fault("header", words, other.place.image_offset - HEADER_BYTES, f"{key}.{other.ext}")
        return found

    def _is_ours(self, member: _Member) -> bool:
        match = _NAME.fullmatch(member.name)
        regular = member.block[156:157] in (b"0", b"\0", b"7")
        return bool(match and regular and int(match[1]) // SHARD_SAMPLES == self._shard)

    def _sample(self, number: int, key: str, members: list[_Member]) -> Found | None:
        row = self._rows[number] if self._rows is not None else None
        texts = [member for member in members if member.name == f"{key}.txt"]
        pictures = [member for member in members if member.name != f"{key}.txt"]
        if not members:
            self._fault("header", "expected a sample of this key, found none", None, key)
        for kind, several in (("picture", pictures), ("caption", texts)):
            if members and not several:
                self._fault("header", f"expected a {kind} of this key, found none", None, key)
            for member in several[1:]:
                words = f"expected one {kind} of this key, found another one"
                self._fault("header", words, member.place, member.name)
        if len(pictures) != 1 or len(texts) != 1:
            return None
        picture, text = pictures[0], texts[0]
        is_whole = self._is_as_written(picture, row and f"{key}.{row.ext}", row and row.image_bytes)
        is_whole &= self._is_as_written(text, f"{key}.txt", row and len(row.caption))
        if picture.content + picture.size + padding(picture.size) != text.place:
            words = "expected the caption right behind its picture, found it elsewhere"
            self._fault("header", words, text.place, text.name)
            is_whole = False
        caption = self._caption(text, row)
        if not is_whole or caption is None:
            return None
        place = Placed(picture.content, picture.size, text.content, text.size)
        return Found(number, picture.name[10:], place, caption)

    def _is_as_written(self, member: _Member, name: str | None, size: int | None) -> bool:
        """Check a header against what clipkit writes, and against the manifest, where that is known."""
        wanted = tar_header(member.name if name is None else name, member.size if size is None else size)
        if member.block == wanted:
            return True
        byte = member.place + _first_difference(member.block, wanted)
        words = "expected a header as clipkit writes it, found another one"
        if size is not None and size != member.size:
            words = f"expected a header of {size:,} bytes, as the manifest has it, found {member.size:,}"
        self._fault("header", words, byte, member.name)
        return False

    def _caption(self, text: _Member, row: Row | None) -> bytes | None:
        if text.size > _MAX_CAPTION_BYTES:
            self._fault("caption", f"expected a caption, found {text.size:,} bytes", text.content, text.name)
            return None
        caption = self._contents.at(text.content, text.size)
        if row is not None and caption != row.caption:
            byte = text.content + _first_difference(caption, row.caption)
            self._fault("caption", "expected the manifest's caption, found another one", byte, text.name)
            return None
        try:
            caption.decode()
        except UnicodeDecodeError as error:
            byte = text.content + error.start
            self._fault("caption", "expected UTF-8, found other bytes", byte, text.name)
            return None
        return caption

    def _fault(self, cause: str, words: str, byte: int | None, member: str | None = None) -> None:
        self._faults.add(cause, self._tar, words, member=member, byte=byte)


def _first_difference(found: bytes, wanted: bytes) -> int:
    for place, (one, other) in enumerate(zip(found, wanted, strict=False)):
        if one != other:
            return place
    return min(len(found), len(wanted))
