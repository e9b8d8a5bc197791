"""Copies in the cache: whether they are still what they were made as, and were made of what was wanted.

A copy's time of change is its seal, a time made of its name: whatever writes into the copy later changes
that. Its time of access is that of its last use.
"""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from clipkit.errors import DatasetError
from clipkit.locations import infos, is_remote, version_of

_HASHED: set[tuple[str, int]] = set()  # copies found whole that cannot be sealed, with their times of change
_NAMED_BYTES = 80  # of a file's own name: with all else that is in a copy's, any disk takes it


def copy_name(source: Path, size: int, *others: str) -> str:
    """Return the name of the copy of a file of `size` bytes, of which `others` are known, too."""
    known = "\0".join((str(source), str(size), *others))
    last = os.fsencode(source.name)[-_NAMED_BYTES:].decode(errors="ignore")
    digest = hashlib.sha256(known.encode(errors="surrogateescape")).hexdigest()
    return f"{digest[:40]}-{size}-{last}"


def size_in(name: str) -> int:
    """Return the size that the name of a copy, or of one that is coming, tells; 0 if it is none."""
    given = name.split("-", 2)[1:2]
    return int(given[0]) if given and given[0].isdecimal() else 0


def seal(copy: int | Path, path: Path) -> bool:
    """Give a copy, which is or will be at `path`, its seal, as used now; tell whether it has it."""
    wanted = _seal_of(path)
    with suppress(OSError):  # another user's, or one on a disk that is read only
        os.utime(copy, ns=(time.time_ns(), wanted))
    return os.stat(copy).st_mtime_ns == wanted  # noqa: PTH116 (or a descriptor)


def is_as_made(descriptor: int, path: Path, sha256: str | None) -> bool:
    """Tell whether nothing was written into the copy at `path` since it was made, which is then sealed.

    One without its seal, because it was copied from elsewhere say, is the file if it has the SHA-256. Where
    none is known, it is believed only if no other can be made.
    """
    changed = os.fstat(descriptor).st_mtime_ns
    if changed == _seal_of(path) or (str(path), changed) in _HASHED:
        seal(descriptor, path)
        return True
    if sha256 is None:
        return not os.access(path.parent, os.W_OK)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            return False
    os.lseek(descriptor, 0, os.SEEK_SET)
    if not seal(descriptor, path):
        _HASHED.add((str(path), changed))
    return True


def check_same(source: Path, version: str) -> None:
    """Raise DatasetError if another file has taken the name of the one that was of this version.

    It may have the same size, and its samples lie elsewhere. FileNotFoundError if there is none any more.
    """
    if not is_remote(source):
        return
    info = infos([source])[0]
    if info is None:
        raise FileNotFoundError
    if version_of(info) != version:
        raise DatasetError(
            f"{source}: expected the file as it was when it was asked for first, found it changed; "
            "is it still being written? Begin again when it is whole"
        )


def _seal_of(path: Path) -> int:
    return int(path.name[:7], 16) * 2 * 10**9  # of even seconds: any file system keeps it
