"""Pictures that lie as files on this machine, and the tables of them, as OpenCLIP's CSV files are."""

import errno
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from clipkit.errors import SourceError
from clipkit.shards.delimited import Delimited, find_column

SEPARATORS = ("\t", ",", ";", "|")
_LEADS_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
_OF_FOLDERS = {errno.ENOENT, errno.ENOTDIR}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class PictureTable(NamedTuple):
    """A table whose records name a picture and its caption, and these columns' names."""

    table: Delimited
    image: str
    caption: str


class NoPicture(NamedTuple):
    """Why there is no picture to be read: one of `schemas.REASONS`, and a few words more."""

    reason: str
    detail: str


def picture_table(
    path: Path, image_column: str = "filepath", caption_column: str = "title", separator: str | None = None
) -> PictureTable:
    """Open a table of pictures; without a `separator` it is the one of SEPARATORS that makes both columns.

    Quoted values may hold separators and newlines. Raises SourceError for a file that cannot be read as a
    table, and for a column that is missing, which lists those found.
    """
    tables = [Delimited(path, each, quoted_newlines=True) for each in _separators(separator)]
    fitting = [table for table in tables if {image_column, caption_column} <= set(table.names)]
    table = max(fitting or tables, key=lambda table: len(table.names))
    alone = ", or give another --separator" if len(table.names) == 1 else ""
    image = find_column(path, table.names, image_column, frozenset(), "pictures", f"--image-col{alone}")
    caption = find_column(path, table.names, caption_column, frozenset(), "captions", "--caption-col")
    return PictureTable(table, image, caption)


def _separators(given: str | None) -> tuple[str, ...]:
    if given is None:
        return SEPARATORS
    separator = "\t" if given == "\\t" else given
    if len(separator) != 1 or separator in '"\r\n' or not separator.isascii():
        raise SourceError(
            f"--separator {given!r}: expected one ASCII character, no quote or newline (\\t is a tab)"
        )
    return (separator,)


def read_picture(listed: str, path: str, max_bytes: int) -> bytes | NoPicture:
    """Return the content of the picture at `path`, `listed` so in its table; never raises.

    The reason is `scheme` for a URL, `bad_url` for a path that leads nowhere, `connect` for a file that
    cannot be read for now (its disk, or who may read it; also where there is no folder, or nothing in it, as
    of a disk that is not mounted), `not_an_image` for no regular file, `too_large` for more than `max_bytes`.
    """
    if _SCHEME.match(listed):
        return NoPicture("scheme", "expected a path on this machine, found a URL")
    try:
        # Not waiting for a writer, should it be a pipe.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return NoPicture("not_an_image", "no regular file")
            data = stream.read(max_bytes + 1)
    except ValueError as error:  # a zero byte in the path
        return NoPicture("bad_url", str(error))
    except OSError as error:
        # A directory can be opened, but not made a stream of; a socket cannot be opened.
        if error.errno in (errno.EISDIR, errno.ENXIO):
            return NoPicture("not_an_image", "no regular file")
        leads_nowhere = error.errno in _LEADS_NOWHERE and (
            error.errno not in _OF_FOLDERS or _holds_anything(os.path.dirname(path))  # noqa: PTH120
        )
        return NoPicture("bad_url" if leads_nowhere else "connect", error.strerror or str(error))
    if len(data) > max_bytes:
        return NoPicture("too_large", f"more than {max_bytes:,} bytes")
    return data


def _holds_anything(folder: str) -> bool:
    try:
        with os.scandir(folder or ".") as entries:
            return next(entries, None) is not None
    except OSError:
        return False
