"""What img2dataset (1.47) leaves beside its tars: a Parquet file with a row a URL, the failed ones included.

A failed row has no member in the tar. Its `status` and the text of the exception tell why.
"""

from collections.abc import Iterator, Sequence

from clipkit.ingest.img2dataset_words import reason_of as words_reason
from clipkit.ingest.rows import UrlRow
from clipkit.ingest.table_files import row
from clipkit.ingest.table_formats import Parquet, as_text
from clipkit.shards.text_files import shortened

COLUMNS = frozenset({"key", "url", "status", "error_message"})
"""The columns by which its table is known."""

_SUCCESS = "success"
_OTHERWISE = {"failed_to_resize": "broken_image"}


def count_failures(table: Parquet) -> int:
    """Count the rows that are no success."""
    return sum(1 for values in table.read(["status"]) if values[0] != _SUCCESS)


def failed_rows(source: str, table: Parquet, keep: Sequence[str] = ()) -> Iterator[UrlRow]:
    """Yield the rows that are no success, as rows of the file `source` with the reason they failed for.

    Those of the `keep` columns that the table has come along as text.
    """
    names = [name for name in ("status", "error_message", "url", "caption", *keep) if name in table.names]
    for number, values in enumerate(table.read(names)):
        fields = dict(zip(names, values, strict=True))
        status, message = fields["status"], fields["error_message"]
        if status != _SUCCESS:
            kept = [as_text(fields.get(name)) for name in keep]
            made = row(source, number, (fields["url"], fields.get("caption", ""), *kept), keep)
            yield made if made.problem else _failed(made, str(status), message or "")


def reason_of(status: str, message: str) -> str:
    """Return the reason of `REASONS` for a row's status and error message; `protocol` for any other error."""
    return words_reason(message, _OTHERWISE.get(status, "protocol"))[0]


def _failed(made: UrlRow, status: str, message: str) -> UrlRow:
    words = shortened(" ".join(message.split()), 200) or status
    return made._replace(problem=f"img2dataset: {words}", reason=reason_of(status, message))
