"""Tables of pictures on this machine, as OpenCLIP's CSV files are: a path and a caption in each record."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from clipkit.ingest.rows import Failed, Fetched, UrlRow
from clipkit.ingest.sources import Source, identify, unique_names
from clipkit.ingest.table_files import find_column, row
from clipkit.ingest.table_formats import Delimited

DELIMITERS = ("\t", ",", ";", "|")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def local_files(path: Path, image_column: str = "filepath", caption_column: str = "title") -> Source:
    """Open a table of pictures; the delimiter is the one of DELIMITERS that makes both columns of its header.

    Relative paths are relative to the table's folder. Raises SourceError for a file that cannot be read as a
    table, or lacks one of the columns.
    """
    (name,) = unique_names([path])
    tables = [Delimited(path, delimiter, quoted_newlines=True) for delimiter in DELIMITERS]
    fitting = [table for table in tables if {image_column, caption_column} <= set(table.names)]
    table = max(fitting or tables, key=lambda table: len(table.names))
    image = find_column(path, table, image_column, frozenset(), "pictures", "--image-col")
    caption = find_column(path, table, caption_column, frozenset(), "captions", "--caption-col")
    folder = path.absolute().parent

    def read() -> Iterator[UrlRow]:
        for number, record in enumerate(table.read([image, caption])):
            made = row(name, number, record)
            yield made if made.problem else made._replace(file=os.path.join(folder, made.url))  # noqa: PTH118

    reading = {"kind": "files", "image_col": image, "caption_col": caption}
    return Source((identify(path, name),), table.count(), read, reading)


def read_file(listed: str, path: str, max_bytes: int) -> Fetched | Failed:
    """Return the content of the picture at `path`, `listed` so in its table; never raises.

    A URL is a `scheme` failure, what cannot be opened and read `bad_url`, no regular file `not_an_image`,
    more than `max_bytes` `too_large`.
    """
    if _SCHEME.match(listed):
        return Failed("scheme", "expected a path on this machine, found a URL")
    try:
        # Not waiting for a writer, should it be a pipe.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return Failed("not_an_image", "no regular file")
            data = stream.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        # A directory can be opened, but not made a stream of.
        if isinstance(error, OSError) and error.errno == errno.EISDIR:
            return Failed("not_an_image", "no regular file")
        return Failed("bad_url", getattr(error, "strerror", None) or str(error))
    if len(data) > max_bytes:
        return Failed("too_large", f"more than {max_bytes:,} bytes")
    return Fetched(data, None, 1)
