"""Tables of pictures on this machine, as OpenCLIP's CSV files are: a path and a caption in each record."""

import os
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from clipkit.errors import SourceError
from clipkit.ingest.list_files import identify_all
from clipkit.ingest.rows import Failed, Fetched, UrlRow
from clipkit.ingest.sources import Source, unique_names
from clipkit.ingest.table_files import row
from clipkit.shards.picture_files import picture_table, read_picture
from clipkit.shards.text_files import shortened


def local_files(path: Path, image_column: str = "filepath", caption_column: str = "title") -> Source:
    """Open a table of pictures, of any usual delimiter.

    Relative paths are relative to the table's folder. Raises SourceError as `picture_table` does.
    """
    (name,) = unique_names([path])
    table, image, caption = picture_table(path, image_column, caption_column)
    folder = path.absolute().parent

    def read() -> Generator[UrlRow]:
        for number, record in enumerate(table.read([image, caption])):
            made = row(name, number, record)
            yield made if made.problem else made._replace(file=os.path.join(folder, made.url))  # noqa: PTH118

    reading = {"kind": "files", "image_col": image, "caption_col": caption}
    return Source(identify_all([path], [name]), table.count(), read, reading)


def look_for_pictures(rows: Generator[UrlRow]) -> None:
    """Raise SourceError if the rows have pictures on this machine, and none of them is there.

    Then the paths begin elsewhere, or a disk is not mounted, and all would fail for good. One that is there
    ends the search.
    """
    looked_for, first = 0, ""
    with closing(rows):
        for path in (row.file for row in rows if not row.problem):
            if not isinstance(path, str):
                return
            try:
                Path(path).stat()
            except (OSError, ValueError) as error:
                first = first or f"{shortened(path, 500)}: {getattr(error, 'strerror', None) or error}"
                looked_for += 1
            else:
                return
    if looked_for:
        raise SourceError(
            f"expected pictures at the table's paths, found none of {looked_for:,} ({first}); nothing was "
            "marked as failed: relative paths begin at the table's folder; move the table, or mend its "
            "paths, and run the same command again"
        )


def read_file(listed: str, path: str, max_bytes: int) -> Fetched | Failed:
    """Return the content of the picture at `path`, `listed` so in its table; never raises."""
    found = read_picture(listed, path, max_bytes)
    return Fetched(found, None, 1) if isinstance(found, bytes) else Failed(*found)
