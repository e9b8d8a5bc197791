"""Files of lists as streams of bytes, lines and records, in memory that does not grow with them."""

import bz2
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa

from clipkit.errors import SourceError
from clipkit.locations import is_remote

MAX_RECORD_BYTES = 1 << 20
_BLOCK = 1 << 16
COMPRESSIONS = (".gz", ".bz2", ".zst")
_MARK_OF_UTF16 = "\ufffd\ufffd"  # its two bytes, read as UTF-8
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Malformed(NamedTuple):
    """A record that cannot be read as one: its text, perhaps cut off, and why."""

    text: str
    problem: str


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file, decompressed if its name ends in one of COMPRESSIONS.

    What goes wrong while it is open, cut off or damaged compression included, is raised as SourceError.
    """
    try:
        with (
            opened_as_stored(path) as stored,
            _decompressed(stored, path.suffix.lower()) as stream,
        ):
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SourceError(
            f"{path}: expected a list or a table, found that it cannot be read ({why}); check its name"
        ) from None


@contextmanager
def opened_as_stored(path: Path) -> Iterator[BinaryIO]:
    """Open a file as it is. Raises OSError, and SourceError for a pipe or a device, which is not waited for:
    lists are read more than once.
    """
    with path.open("rb") if is_remote(path) else open(path, "rb", opener=_at_once) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise SourceError(
                f"{path}: expected a regular file, which is read more than once, found a pipe or device"
            )
        yield stream


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def check_utf8(path: Path, first_line: str) -> None:
    """Raise SourceError if a file's first line, read as UTF-8, shows that it has another encoding."""
    if first_line.startswith(_MARK_OF_UTF16):
        raise SourceError(f"{path}: expected text in UTF-8, found UTF-16 by its first bytes; convert it")
    if "\0" in first_line:
        raise SourceError(f"{path}: expected text in UTF-8, found zero bytes in its first line; convert it")


def name_without_compression(path: Path) -> Path:
    """Return the path without a last suffix that is one of COMPRESSIONS."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path


def read_lines(stream: BinaryIO) -> Iterator[bytes]:
    r"""Yield the lines of a text file, with their `\n`, without a byte order mark at the beginning.

    Of a line longer than MAX_RECORD_BYTES only that many are kept.
    """
    first = True
    while line := stream.readline(MAX_RECORD_BYTES):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_RECORD_BYTES)
        if first:
            line = line.removeprefix(_BYTE_ORDER_MARK)
            first = False
        yield line


def read_records(stream: BinaryIO) -> Iterator[str]:
    r"""Yield the records of a text file: split at `\n`, a trailing `\r` removed, decoded as UTF-8.

    An empty last line is no record. Invalid UTF-8 becomes U+FFFD.
    """
    for line in read_lines(stream):
        yield line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "replace")


def count_lines(path: Path) -> int:
    """Count the lines of a file; the last one need not end in a newline. Raises SourceError."""
    newlines, last = 0, b"\n"
    with opened(path) as stream:
        while block := stream.read(1 << 20):
            newlines += block.count(b"\n")
            last = block[-1:]
    return newlines + (last != b"\n")


def shortened(text: str, characters: int = 80) -> str:
    """Return the text, or its beginning with an ellipsis."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


class _Bzip2(io.RawIOBase):
    """The content of a bzip2 file, of one stream or, as parallel programs write it, of many.

    Python's own reader takes a stream that is damaged at its beginning for the end of the file.
    """

    def __init__(self, stored: BinaryIO):
        self._stored = stored
        self._stream = bz2.BZ2Decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            data = b""
            if self._stream.eof:
                if not (data := self._next_stream()):
                    return 0
                self._stream = bz2.BZ2Decompressor()
            elif self._stream.needs_input and not (data := self._stored.read(_BLOCK)):
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            if piece := self._stream.decompress(data, len(buffer)):
                buffer[: len(piece)] = piece
                return len(piece)

    def _next_stream(self) -> bytes:
        data = self._stream.unused_data.lstrip(b"\0")  # padding is allowed, as for gzip
        while not data and (block := self._stored.read(_BLOCK)):
            data = block.lstrip(b"\0")
        return data


@contextmanager
def _decompressed(stored: BinaryIO, suffix: str) -> Iterator[BinaryIO]:
    if suffix == ".gz":
        with gzip.open(stored) as stream:
            yield cast(BinaryIO, stream)
    elif suffix == ".bz2":
        with io.BufferedReader(_Bzip2(stored), _BLOCK) as stream:
            yield cast(BinaryIO, stream)
    elif suffix == ".zst":
        with pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), "zstd") as compressed:
            yield cast(BinaryIO, io.BufferedReader(compressed, _BLOCK))
    else:
        yield stored
