"""What stores and web servers answer to those who read: whole files, copied bit by bit, and byte ranges."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, NamedTuple

from clipkit.remote import Transfer

_PARTIAL, _BEHIND_ITS_END = 206, 416
_RANGE = re.compile(r"bytes ([0-9]{1,18})-(?:[0-9]{1,18}/([0-9]{1,18}))?")
_READ = 1 << 16  # bytes at a time


class Copy:
    """A file that is copied into another one of this machine, by as many requests as it takes."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self._version = ""  # of what `file` begins with; without one that cannot be known
        self._size: int | None = None

    def begin(self) -> int:
        """Return how many bytes need not be asked for again: none of what came whole, and is wrong."""
        had = self.file.tell()
        return had if self._version and self._size and had < self._size else 0

    def forget(self) -> None:
        """Have all bytes anew: they may be of another file."""
        self._version = ""

    async def take(self, answer: "_Answer", had: int, transfer: Transfer) -> None:
        """Write what an answer to a request for all behind the first `had` bytes brings.

        Raises ConnectionError if it is short, or of another file or another range.
        """
        version, size = self._version, self._size
        self.forget()  # until it is known to be what is had
        start = had - answer.before(had)
        self._size = answer.size(start)
        if start and (answer.version, self._size) != (version, size):
            raise ConnectionError("another file than before")
        self._version = answer.version
        self.file.seek(start)
        self.file.truncate()
        transfer.set_size(self._size, start)
        while piece := await answer.read(_READ):
            self.file.write(piece)
            transfer.relative_update(len(piece))
        found = self.file.tell()
        if self._size not in (None, found):
            raise ConnectionError(f"{found:,} of {self._size:,} bytes")


class _Answer(NamedTuple):
    """An answer to a request for a file or its bytes from one on: its `length`, and how its body is `read`.

    `version` tells the file from others of that name, and is empty where nothing does for sure.
    """

    is_part: bool
    told: str | None
    length: int | None
    version: str
    read: Callable[[int], Awaitable[bytes]]

    def before(self, start: int) -> int:
        """Return how many bytes come before the one that was asked for. Raises ConnectionError for others."""
        if not self.is_part:
            return start
        found = _RANGE.match(self.told or "")
        if not found or int(found[1]) != start:
            raise ConnectionError(
                f"another range than the bytes from {start:,} on ({(self.told or 'none')[:60]})"
            )
        return 0

    def size(self, start: int) -> int | None:
        """Return the whole file's size, the answer's bytes beginning at `start`: a part may end before it."""
        found = _RANGE.match(self.told or "") if self.is_part else None
        if found and found[2]:
            return int(found[2])
        return None if self.length is None else start + self.length


async def copied(system: Any, address: str, copy: Copy, transfer: Transfer) -> None:
    """Copy a file, or what of it is not had yet. Raises ConnectionError if less comes than was promised."""
    had = copy.begin()
    try:
        async with _asked(system, address, f"bytes={had}-" if had else None) as answer:
            return await copy.take(answer, had, transfer)
    except Exception as error:
        if not had or _status(error) != _BEHIND_ITS_END:
            raise
    copy.forget()
    raise ConnectionError("a shorter file than before")  # here: not judged by the other error


async def byte_range(system: Any, address: str, start: int, length: int, transfer: Transfer) -> bytes:
    """Return a byte range of a file, also of a server that gives only whole ones.

    Raises ConnectionError for the bytes of another range.
    """
    async with _asked(system, address, f"bytes={start}-{start + length - 1}") as answer:
        before = answer.before(start)
        transfer.set_size(before + length)
        content = bytearray()
        while len(content) < length and (piece := await answer.read(_READ)):
            transfer.relative_update(len(piece))
            content += piece[before:]
            before = max(0, before - len(piece))
        return bytes(content[:length])


@asynccontextmanager
async def _asked(system: Any, address: str, wanted: str | None) -> AsyncIterator[_Answer]:
    """Ask for a file, or for a range of it as HTTP has them."""
    ends = {"Range": wanted} if wanted else {}
    if isinstance(system.protocol, tuple) and "s3" in system.protocol:
        bucket, key, _ = system.split_path(address)
        found = await system._call_s3("get_object", Bucket=bucket, Key=key, **ends)
        is_part = found["ResponseMetadata"]["HTTPStatusCode"] == _PARTIAL
        async with (body := found["Body"]):  # not what entering returns: its `read` checks
            told = found.get("ContentRange")
            yield _Answer(is_part, told, found.get("ContentLength"), found.get("ETag", ""), body.read)
        return
    session = await system.set_session()
    headers = getattr(system, "with_keys", dict)(ends)
    async with session.get(system.encode_url(address), headers=headers) as response:
        response.raise_for_status()
        told, tag = response.headers.get("Content-Range"), response.headers.get("ETag", "")
        version = "" if tag.startswith("W/") else tag  # a weak one says nothing of bytes
        packed = response.headers.get("Content-Encoding", "identity") != "identity"  # as it comes: unpacked
        length = None if packed else response.content_length
        is_part = response.status == _PARTIAL
        yield _Answer(is_part, told, length, version, response.content.read)


def _status(error: Exception) -> object:
    told = getattr(error.__cause__ or error, "response", None)
    if isinstance(told, dict):  # S3's, as s3fs translates it
        return told["ResponseMetadata"]["HTTPStatusCode"]
    return getattr(error, "status", None)
