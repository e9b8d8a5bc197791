"""Where the pictures of a set lie: as files below a folder, or as byte ranges of tars."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from clipkit.errors import EvaluationError
from clipkit.locks import ThreadLock
from clipkit.shards.picture_files import NoPicture, read_picture
from clipkit.shards.shard_files import Int64s
from clipkit.shards.shard_set import MAX_PICTURE_BYTES

_OPEN_TARS = 64
_CHANGING = ThreadLock()  # of which tars are open, in any TarPictures


class Pictures(Protocol):
    """Pictures by number; picklable, and small. Several threads may read them at a time.

    `names` are their paths below the set's folder, or in its archive.
    """

    @property
    def names(self) -> Sequence[str]:
        """A name for each picture."""

    @property
    def archives(self) -> Sequence[str]:
        """The files that hold the pictures, if they are no files of their own."""

    def read(self, index: int) -> bytes:
        """Return a picture's bytes. Raises OSError and ClipkitError if they cannot be had."""

    def place(self, index: int) -> str:
        """Return where a picture lies, for messages."""

    def chosen(self, places: Sequence[int]) -> "Pictures":
        """Return some of them, in this order."""


class FolderPictures:
    """Files by their `names` below the folder `root`."""

    archives: Sequence[str] = ()

    def __init__(self, root: Path, names: Sequence[str]):
        self._root = os.fspath(root)
        self.names = tuple(names)

    def read(self, index: int) -> bytes:
        """Return a file's content. Raises EvaluationError for what cannot be read, and no regular file."""
        path = self._path(index)
        content = read_picture("", path, MAX_PICTURE_BYTES)
        if isinstance(content, NoPicture):
            raise EvaluationError(content.detail)
        return content

    def place(self, index: int) -> str:
        """Return the file's path."""
        return self._path(index)

    def chosen(self, places: Sequence[int]) -> "FolderPictures":
        """Return some of them, in this order."""
        return FolderPictures(Path(self._root), [self.names[place] for place in places])

    def _path(self, index: int) -> str:
        return os.path.join(self._root, self.names[index])  # noqa: PTH118 (50,000 Paths are slow to make)


class OpenedTar(Protocol):
    """A tar that can be opened in every process; picklable."""

    @property
    def place(self) -> str:
        """Where it lies, for messages."""

    def open(self) -> int:
        """Return a descriptor. Raises ClipkitError if it is not there, or not what it was."""


class TarPictures:
    """Members of tars, read with pread at byte ranges that are known from their headers.

    `ranges` is int64 (N, 3): the number of the tar in `tars`, and the member's offset and size.
    """

    def __init__(self, tars: Sequence[OpenedTar], names: Sequence[str], ranges: Int64s):
        self._tars = tuple(tars)
        self.names = tuple(names)
        self._ranges = ranges
        self._descriptors: dict[int, int] = {}

    @property
    def archives(self) -> Sequence[str]:
        """Where the tars lie."""
        return [tar.place for tar in self._tars]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)

    def read(self, index: int) -> bytes:
        """Return a member's content. Raises OSError, and ClipkitError if the tar is not what it was."""
        number, offset, size = self._ranges[index].tolist()
        if size > MAX_PICTURE_BYTES:
            raise EvaluationError(f"more than {MAX_PICTURE_BYTES:,} bytes")
        descriptor = self._descriptor(number)
        try:
            content = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
        if len(content) != size:
            raise EvaluationError(f"expected {size:,} bytes at {offset:,}, found {len(content):,}")
        return content

    def place(self, index: int) -> str:
        """Return the tar's path and the member's name."""
        return f"{self._tars[int(self._ranges[index, 0])].place}: {self.names[index]}"

    def chosen(self, places: Sequence[int]) -> "TarPictures":
        """Return some of them, in this order."""
        return TarPictures(self._tars, [self.names[place] for place in places], self._ranges[list(places)])

    def _descriptor(self, number: int) -> int:
        """Return a descriptor of one's own: another thread may close those that are kept."""
        with _CHANGING:
            if number not in self._descriptors:
                self._descriptors[number] = self._tars[number].open()
                if len(self._descriptors) > _OPEN_TARS:  # pictures come in the order of their tars
                    os.close(self._descriptors.pop(next(iter(self._descriptors))))
            return os.dup(self._descriptors[number])


def ranges_of(rows: Sequence[tuple[int, int, int]]) -> Int64s:
    """Return rows of (tar, offset, size) as TarPictures takes them."""
    return np.array(rows, dtype=np.int64).reshape(-1, 3)
