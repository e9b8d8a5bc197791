"""Conceptual Captions 3M (caption⇥URL) and 12M (URL⇥caption): no header, and quotes mean nothing."""

import itertools
import re
from collections.abc import Generator, Sequence
from pathlib import Path

from clipkit.errors import SourceError
from clipkit.ingest.list_files import at_hand, identify_all
from clipkit.ingest.rows import UrlRow
from clipkit.ingest.sources import Source, refuse_mixed_splits, unique_names
from clipkit.shards.text_files import check_utf8, count_lines, opened, read_records, shortened

_RECORDS_LOOKED_AT = 100
_URL = re.compile(r"\s*https?://", re.IGNORECASE)


def conceptual_captions(paths: Sequence[Path]) -> Source:
    """Open lists in the form of Conceptual Captions 3M (caption⇥URL) or 12M (URL⇥caption).

    Which column holds the URL is decided once per file from its first records. Invalid UTF-8 becomes
    U+FFFD. Raises SourceError for a missing or empty file, one without a URL column or with two, files that
    are given twice, and a mixture of training and validation files.
    """
    names = unique_names(paths)
    refuse_mixed_splits(paths, "cc")
    paths = at_hand(paths)
    url_columns = [_url_column(path) for path in paths]

    def read() -> Generator[UrlRow]:
        for path, name, url_column in zip(paths, names, url_columns, strict=True):
            with opened(path) as stream:
                for number, record in enumerate(read_records(stream)):
                    yield _row(name, number, record, url_column)

    return Source(identify_all(paths, names), sum(map(count_lines, paths)), read)


def _row(source: str, number: int, record: str, url_column: int) -> UrlRow:
    columns = record.split("\t")
    if len(columns) == 2:
        return UrlRow(source, number, columns[url_column].strip(), columns[1 - url_column])
    return UrlRow(source, number, "", record, f"expected 2 columns, found {len(columns)}")


def _url_column(path: Path) -> int:
    with opened(path) as stream:
        looked_at = list(itertools.islice(read_records(stream), _RECORDS_LOOKED_AT))
    if not looked_at:
        raise SourceError(
            f"{path}: expected a list of captions and URLs, found an empty file; is it the right one?"
        )
    rows = [columns for record in looked_at if len(columns := record.split("\t")) == 2]
    votes = [sum(bool(_URL.match(columns[side])) for columns in rows) for side in (0, 1)]
    if not any(votes):
        check_utf8(path, looked_at[0])
        raise SourceError(
            f"{path}: expected lines of caption<TAB>URL or URL<TAB>caption without a header, "
            f"found no URL column in the first {len(looked_at)}; the first is {shortened(looked_at[0])!r}; "
            "for a table with a header use `clipkit ingest table`"
        )
    if votes[0] == votes[1]:
        raise SourceError(
            f"{path}: expected URLs in one column, found as many in both, {votes[0]} each in the first "
            f"{len(looked_at)} lines; put a line with the columns' names before them and use "
            "`clipkit ingest table`"
        )
    return 0 if votes[0] > votes[1] else 1
