"""Zip files of PyTorch: the directory checked before it is believed, every member against its CRC-32."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from clipkit.errors import CheckpointError

_CHUNK = 1 << 20
_LARGEST_DIRECTORY = 8 << 20
_LARGEST_PROGRAM = 256 << 20
_LOCAL_HEADER, _END, _END_64 = 30, 22, 56
_LOCATOR_64 = 20
_DAMAGE = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Python's reader raises for bytes that are no whole zip file."""


class CheckedZip:
    """The members of a zip file that PyTorch wrote, by their names below its one folder.

    Raises CheckpointError, here and while members are read, for what is cut short, damaged, compressed (a
    checkpoint never is; a zip bomb is) or claims more than the file holds. Only the program texts of a
    TorchScript archive, below `code/`, may be compressed: they are never read, only checked.
    """

    def __init__(self, opened: BinaryIO, path: Path) -> None:
        self.path = path
        try:
            _check_directory_size(opened)
            self._archive = zipfile.ZipFile(opened)
        except _DAMAGE as error:
            raise self._damaged("") from error
        self._entries = self._named(self._archive.infolist())
        self._check_places(self._archive.infolist(), self._archive.start_dir)
        self._unread = set(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def size(self, name: str) -> int | None:
        """Bytes of a member, None if there is none of that name."""
        entry = self._entries.get(name)
        return None if entry is None else entry.file_size

    def read(self, name: str, limit: int) -> bytes:
        """Return a whole member of at most `limit` bytes, or raise CheckpointError."""
        size = self._entries[name].file_size
        if size > limit:
            raise CheckpointError(
                f"{self.path} holds a {name} of {size:,} bytes, which no model has: refused"
            )
        content = bytearray(size)
        self.read_into(name, memoryview(content))
        return bytes(content)

    def read_into(self, name: str, target: memoryview) -> None:
        """Fill `target`, as long as the member is, without a copy of it in between."""
        done = 0
        for chunk in self._chunks(name):
            target[done : done + len(chunk)] = chunk
            done += len(chunk)

    def check_rest(self) -> None:
        """Check the members that were not read, holding none of them."""
        for name in sorted(self._unread):
            for _ in self._chunks(name):
                pass

    def _chunks(self, name: str) -> Iterator[bytes]:
        entry, left = self._entries[name], self._entries[name].file_size
        try:
            # Python's reader compares the CRC-32 with the last bytes.
            with self._archive.open(entry) as member:
                while left:
                    chunk = member.read(min(left, _CHUNK))
                    if not chunk:
                        raise EOFError
                    left -= len(chunk)
                    yield chunk
        except _DAMAGE as error:
            raise self._damaged(f" in {name}") from error
        self._unread.discard(name)

    def _named(self, entries: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        if not entries:
            raise CheckpointError(f"{self.path} is an empty zip file, not one of PyTorch")
        folder = entries[0].filename.partition("/")[0] + "/"
        named = {}
        for entry in entries:
            name = entry.filename.removeprefix(folder)
            if name == entry.filename or name in named:
                raise CheckpointError(f"{self.path} is a zip file, but not of PyTorch")
            if entry.flag_bits & 1 or (entry.compress_type and not _is_program(name)):
                raise CheckpointError(f"{self.path} holds compressed data, which no checkpoint does: refused")
            named[name] = entry
        return named

    def _check_places(self, entries: list[zipfile.ZipInfo], directory: int) -> None:
        # Members that overlap, or that unfold to more than they store, make a small file ask for much.
        ordered = sorted(entries, key=lambda entry: entry.header_offset)
        starts = [*(entry.header_offset for entry in ordered), directory]
        spans = [
            _LOCAL_HEADER + len(entry.orig_filename) + max(entry.compress_size, _stored(entry))
            for entry in ordered
        ]
        overlap = any(end - start < span for (start, end), span in zip(pairwise(starts), spans, strict=True))
        if overlap or sum(entry.file_size for entry in entries if entry.compress_type) > _LARGEST_PROGRAM:
            claimed = sum(entry.file_size for entry in entries)
            raise CheckpointError(
                f"{self.path} claims to hold {claimed:,} bytes, more than are there for them: refused"
            )

    def _damaged(self, where: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is cut short or damaged{where}; fetch or write it anew")


def _is_program(name: str) -> bool:
    return name.startswith("code/")


def _stored(entry: zipfile.ZipInfo) -> int:
    return 0 if entry.compress_type else entry.file_size


def _check_directory_size(opened: BinaryIO) -> None:
    # Each entry of the directory becomes an object ten times its size: it is bounded before it is read. What
    # PyTorch writes has no comment, so the directory's size stands in the very last bytes.
    size = opened.seek(0, 2)
    opened.seek(max(0, size - _END - _LOCATOR_64 - _END_64))
    tail = opened.read()
    end = tail[-_END:]
    if len(end) < _END or end[:4] != b"PK\x05\x06":
        raise zipfile.BadZipFile
    (length,) = struct.unpack_from("<L", end, 12)
    record = tail[: -_END - _LOCATOR_64]
    if record[:4] == b"PK\x06\x06":
        length = max(length if length != 0xFFFFFFFF else 0, *struct.unpack_from("<Q", record, 40))
    if length > _LARGEST_DIRECTORY:
        raise zipfile.BadZipFile
