"""Passes: how ingest comes back to a finished dataset, for more of its source or for what failed.

Before a retry pass the records that it tries are taken out of the failure files; from then on they are to be
done, and end as samples or failures once more.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipkit.atomic import replaced
from clipkit.errors import DatasetError
from clipkit.locations import downloaded, remove_tree
from clipkit.shards.failure_files import (
    next_number,
    read_failures,
    remove_failures_from,
    write_failures,
)
from clipkit.shards.index import Index, IngestProgress, read_index
from clipkit.shards.parquet import UNREADABLE
from clipkit.shards.parts import PARTS, make_parts_folder

_RETRIED = "retried.parquet"
_NONE = bytearray()
_BATCH = 1 << 16
_RETRIED_SCHEMA = pa.schema([("source", pa.string()), ("source_row", pa.int64())])


def prepare_pass(directory: Path, number: int, *, retry: bool) -> Index | None:
    """Make the finished dataset in `directory` ready for pass `number`; it begins when the index returned is
    written. None: it has begun, or is the first one, which needs nothing.

    For a `retry` pass the index lacks the failures that may pass; they stand in a file of their own. Until it
    is written the dataset is as it was, as it is after an error: DatasetError as reading does, OSError as the
    file system does.
    """
    index = read_index(directory) if number else Index()
    if index.progress.pass_number == number:
        return None
    remove_tree(directory / PARTS)  # all of them packed, or of a pass not begun
    first = following = next_number(index)
    if retry:
        try:
            following = _take_out(directory, index, first, make_parts_folder(directory, number))
        except BaseException:
            remove_tree(directory / PARTS)
            remove_failures_from(directory, first)
            raise
    index.progress = IngestProgress(pass_number=number, first_failure_file=following)
    return index


class Retried:
    """The records that a begun retry pass tries, whose parts lie in `parts`: a bit for each record.

    Raises DatasetError if their file is missing or damaged.
    """

    def __init__(self, parts: Path):
        self._bits: dict[str, bytearray] = {}
        path = parts / _RETRIED
        try:
            with downloaded(path) as copy, pq.ParquetFile(copy) as file:
                for batch in file.iter_batches(_BATCH, use_threads=False):
                    self._mark(batch)
        except UNREADABLE as error:
            found = "no such file" if isinstance(error, FileNotFoundError) else str(error).partition("\n")[0]
            raise DatasetError(
                f"{path}: expected the records to try again, found: {found}; restore it, or ingest anew"
            ) from None

    def __contains__(self, record: tuple[str, int]) -> bool:
        """Tell whether the record (source, source_row) is among them."""
        source, row = record
        bits = self._bits.get(source, _NONE)
        return row >> 3 < len(bits) and bool(bits[row >> 3] >> (row & 7) & 1)

    def _mark(self, batch: pa.RecordBatch) -> None:
        sources = batch["source"].dictionary_encode()
        order = np.argsort(sources.indices.to_numpy(), kind="stable")
        rows = batch["source_row"].to_numpy()[order]
        ends = np.cumsum(np.bincount(sources.indices.to_numpy(), minlength=len(sources.dictionary)))
        for name, of_source in zip(sources.dictionary.to_pylist(), np.split(rows, ends[:-1]), strict=True):
            bits = self._bits.setdefault(name, bytearray())
            bits.extend(bytes(max(0, int(of_source.max()) // 8 + 1 - len(bits))))
            view = np.frombuffer(bits, dtype=np.uint8)
            np.bitwise_or.at(view, of_source >> 3, (1 << (of_source & 7)).astype(np.uint8))
            del view  # a bytearray that is looked at cannot grow


def _take_out(directory: Path, index: Index, number: int, parts: Path) -> int:
    """Write the failures that may pass to a file of their own, the rest anew, file by file.

    Returns the next failure file's number.
    """
    entries = index.shards
    with (
        replaced(parts / _RETRIED) as temporary,
        pq.ParquetWriter(temporary, _RETRIED_SCHEMA, compression="zstd") as retried,
    ):
        for entry in index.failure_files:
            failures = read_failures(directory, entry)
            may_pass = failures["retryable"]
            taken = failures.filter(may_pass).select(_RETRIED_SCHEMA.names)
            if not len(taken):
                entries.append(entry)
                continue
            retried.write_table(taken)
            if len(taken) < len(failures):
                entries.append(write_failures(directory, number, failures.filter(pc.invert(may_pass))))
                number += 1
    index.entries = entries
    return number
