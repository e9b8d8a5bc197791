"""Failure files: the source's records that gave no sample, and why."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from clipkit.atomic import make_folder
from clipkit.digests import file_sha256
from clipkit.locations import downloaded, each_of, is_remote
from clipkit.shards.index import Index, IndexEntry, read_index
from clipkit.shards.parquet import read_parquet, write_hashed

FAILURES = "failures"
_NUMBER = re.compile(r"failures/(\d{6})\.parquet")


def failures_of(directory: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yield the dataset's failure files, one table each: FAILURE_SCHEMA, or these columns of it.

    Raises DatasetError as reading does.
    """
    read = partial(read_failures, directory, columns=columns)
    yield from each_of(read, read_index(directory).failure_files, remote=is_remote(directory))


def count_reasons(directory: Path) -> Counter[str]:
    """Return how many of the dataset's failures have which reason. Raises DatasetError as reading does."""
    reasons: Counter[str] = Counter()
    for failures in failures_of(directory, ["reason"]):
        for counted in failures["reason"].value_counts().to_pylist():
            reasons[counted["values"]] += counted["counts"]
    return reasons


def count_retryable(directory: Path) -> int:
    """Return how many of the dataset's failures may pass. Raises DatasetError as reading does."""
    counts = (pc.sum(table["retryable"]).as_py() or 0 for table in failures_of(directory, ["retryable"]))
    return sum(counts)


def first_detail(directory: Path, reason: str) -> str:
    """Return what the first failure of that reason says more. Raises DatasetError as reading does."""
    for table in failures_of(directory, ["reason", "detail"]):
        if len(found := table.filter(pc.equal(table["reason"], reason))):
            return str(found["detail"][0])
    return ""


def urls_to_retry(directory: Path) -> Iterator[str]:
    """Yield the URLs whose requests failed and may be tried again. Raises DatasetError as reading does."""
    for table in failures_of(directory, ["url", "reason", "retryable"]):
        requested = pc.not_equal(table["reason"], "worker_crashed")  # as any record may be, also of a file
        tried = table.filter(pc.and_(table["retryable"], requested))
        yield from tried["url"].drop_null().to_pylist()  # a repair does not know them all


def read_failures(directory: Path, entry: IndexEntry, columns: list[str] | None = None) -> pa.Table:
    """Read one failure file. Raises DatasetError as reading does."""
    return read_parquet(directory / entry.name, "a failure file", columns, entry.sha256)


def write_failures(directory: Path, number: int, failures: pa.Table) -> IndexEntry:
    """Write failure file number `number`; it exists once the index lists the returned entry."""
    path = directory / FAILURES / f"{number:06d}.parquet"
    make_folder(path.parent)
    sha256 = write_hashed(path, failures)
    name = path.relative_to(directory).as_posix()
    return IndexEntry("failures", name, len(failures), path.stat().st_size, sha256, None)


def entry_of(directory: Path, name: str, failures: pa.Table) -> IndexEntry:
    """Return the entry of a failure file that is there. Raises OSError as the file system does."""
    with downloaded(directory / name) as path:
        return IndexEntry("failures", name, len(failures), path.stat().st_size, file_sha256(path), None)


def remove_failures_from(directory: Path, number: int) -> None:
    """Remove the files that no index lists: those with this number or a higher one."""
    for path in (directory / FAILURES).glob("*.parquet"):
        match = _NUMBER.fullmatch(f"{FAILURES}/{path.name}")
        if match and int(match[1]) >= number:
            path.unlink()


def next_number(index: Index) -> int:
    """Return the first number above those of the index's failure files."""
    return max((number_of(entry) + 1 for entry in index.failure_files), default=0)


def number_of(entry: IndexEntry) -> int:
    """Return a failure file's number."""
    match = _NUMBER.fullmatch(entry.name)
    assert match  # as read_index has it
    return int(match[1])
