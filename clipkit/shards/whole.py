"""A dataset's files together: which there are, and whether they agree on what they account for."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from clipkit.errors import DatasetError
from clipkit.json_values import parsed_json
from clipkit.locations import can_list, is_remote, read_bytes
from clipkit.shards.dataset import DATASET_FILE, MAX_JSON_BYTES, Dataset, OtherVersion, read_dataset
from clipkit.shards.failure_files import FAILURES
from clipkit.shards.faults import LISTED_OF_FILE, Faults
from clipkit.shards.format import SHARD_SAMPLES
from clipkit.shards.half_repaired import REPAIR
from clipkit.shards.index import INDEX_FILE, Index, IndexEntry, read_index
from clipkit.shards.parts import PARTS
from clipkit.shards.records import RecordSet
from clipkit.shards.verify_shard import Listed, Records, ShardVerdict, records_of

SIZES_FILE = "sizes.json"
_NUMBERED = re.compile(r"\d{6}\.(tar|parquet)")


class Files(NamedTuple):
    """The files of a dataset: those that its index lists, or without one those that are there.

    `is_trusted` tells whether what differs from the index is at fault, not the index.
    """

    listing: Index | None
    shards: list[Listed]
    failures: list[tuple[str, IndexEntry | None]]
    is_trusted: bool = True


def check_is_dataset(directory: Path) -> None:
    """Raise DatasetError where nothing looks like a dataset."""
    if not any((directory / name).exists() for name in (INDEX_FILE, DATASET_FILE)) and not shards_there(
        directory
    ):
        found = "none of its files"
        if can_list(directory) and not directory.is_dir():
            found = "a file" if directory.exists() else "no such directory"
        raise DatasetError(f"{directory}: expected a dataset directory as clipkit writes it, found {found}")


def described(directory: Path, faults: Faults) -> Dataset | None:
    """Read dataset.json; what is wrong with it is a fault, but another version is raised."""
    try:
        dataset = read_dataset(directory)
    except OtherVersion:
        raise
    except (DatasetError, OSError) as error:
        faults.add("dataset", DATASET_FILE, _words(error, directory / DATASET_FILE, directory))
        return None
    if not dataset.is_as_written:
        faults.add("dataset", DATASET_FILE, "expected it to have the SHA-256 that it gives, found another")
    return dataset


def is_doubtful(index: Index, dataset: Dataset | None) -> bool:
    """Tell whether dataset.json, itself as it was written, knows another index."""
    known = dataset.index_sha256 if dataset is not None and dataset.is_as_written else None
    return known not in (None, index.sha256)


def listed_files(directory: Path, faults: Faults) -> Files:
    """Return what the index lists, or what is there where it cannot be read, which is a fault."""
    try:
        index = read_index(directory)
    except (DatasetError, OSError) as error:
        faults.add("index", INDEX_FILE, _words(error, directory / INDEX_FILE, directory))
        return _files_there(directory)
    shards = [Listed(entry.name, entry) for entry in index.shards]
    return Files(index, shards, [(entry.name, entry) for entry in index.failure_files])


def doubted(directory: Path, files: Files) -> Files:
    """Return what a doubtful index lists or, where one of that is missing, what is there."""
    names = [*(shard.name for shard in files.shards), *(name for name, _ in files.failures)]
    if all((directory / name).is_file() for name in names):
        return files._replace(is_trusted=False)
    return _files_there(directory)


def each_once(files: Files) -> Files:
    """Return the files with those that are listed twice once; if otherwise each time, as not listed."""
    entries: dict[str, IndexEntry | None] = {}
    for name, entry in [*files.shards, *files.failures]:
        entries[name] = entry if entries.get(name, entry) == entry else None
    shards = [Listed(name, entries[name]) for name in dict.fromkeys(shard.name for shard in files.shards)]
    failures = [(name, entries[name]) for name in dict.fromkeys(name for name, _ in files.failures)]
    return Files(files.listing, shards, failures, files.is_trusted)


def as_found(directory: Path) -> tuple[Dataset | None, Files]:
    """Return what a dataset's files tell of it, and which there are, whatever is wrong with them.

    Raises DatasetError for one whose ingest has not finished, OSError for a file that may not be opened.
    """
    check_openable(directory / name for name in (INDEX_FILE, DATASET_FILE, SIZES_FILE, FAILURES))
    faults = Faults()
    dataset, files = described(directory, faults), each_once(listed_files(directory, faults))
    if files.listing is not None and is_doubtful(files.listing, dataset):
        files = doubted(directory, files)
    check_openable(paths_of(directory, files))
    if (directory / PARTS).is_dir() or (dataset is not None and not dataset.was_complete):
        raise DatasetError(
            f"{directory}: expected a finished ingest, found one that was interrupted; run the same "
            "`clipkit ingest` again before its dataset is repaired"
        )
    return dataset, files


def _files_there(directory: Path) -> Files:
    failures = sorted(path.name for path in (directory / FAILURES).glob("[0-9]*.parquet"))
    listed = [(f"{FAILURES}/{name}", None) for name in failures if _NUMBERED.fullmatch(name)]
    return Files(None, [Listed(name, None) for name in shards_there(directory)], list(listed), False)


def shards_there(directory: Path) -> list[str]:
    """Return the names of the shards there, listed or not, in order; of some only the manifest is left."""
    there = (path for pattern in ("*.tar", "*.parquet") for path in directory.glob(pattern))
    return sorted({path.with_suffix(".tar").name for path in there if _NUMBERED.fullmatch(path.name)})


class Counted:
    """Sums over all files, and which records they account for."""

    def __init__(self, faults: Faults):
        self._seen = RecordSet()
        self.faults = faults
        self.samples = self.failures = self.unknown = self.bytes = 0

    def shard(self, verdict: ShardVerdict) -> None:
        """Count a shard."""
        self.faults.take(verdict.faults)
        self.samples += verdict.samples
        self.bytes += verdict.bytes
        if verdict.records is not None:
            self.unknown += verdict.records.unknown
            self._account(verdict.name.replace(".tar", ".parquet"), verdict.records)

    def failures_in(self, name: str, failures: pa.Table | None, entry: IndexEntry | None) -> None:
        """Count a failure file, by its entry where it cannot be read."""
        if failures is None:
            self.failures += entry.samples if entry else 0
            return
        self.failures += len(failures)
        records = records_of(failures)
        if records.unknown:
            words = f"expected a source record for each row, found none for {records.unknown:,}"
            self.faults.add("record", name, words)
        self._account(name, records)

    def _account(self, name: str, records: Records) -> None:
        faults = Faults(LISTED_OF_FILE)
        possible = records.rows >= 0
        for place in (~possible).nonzero()[0].tolist():
            words = f"row {place}: expected a source row from 0 on, found {int(records.rows[place])}"
            faults.add("record", name, words)
        of_source, rows = records.of_source[possible], records.rows[possible]
        for place in self._seen.add(records.sources, of_source, rows).tolist():
            source = records.sources[int(of_source[place])]
            words = (
                f"row {place}: expected a record once, found number {int(rows[place]):,} of {source!r} again"
            )
            faults.add("record", name, words)
        self.faults.take(faults)


def paths_of(directory: Path, files: Files) -> Iterator[Path]:
    """Yield where the files lie, manifests too."""
    for shard in files.shards:
        yield directory / shard.name
        yield (directory / shard.name).with_suffix(".parquet")
    for name, _ in files.failures:
        yield directory / name


def check_openable(paths: Iterable[Path]) -> None:
    """Raise OSError for a file that is there and cannot be opened: of what is in it nothing is known.

    Behind an address reading tells by itself what is not there from what cannot be had.
    """
    for path in paths:
        if is_remote(path):
            return
        with suppress(FileNotFoundError):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def check_whole(
    directory: Path, dataset: Dataset | None, files: Files, samples: dict[str, int], counted: Counted
) -> None:
    """Check what no file can be asked alone."""
    faults = counted.faults
    if (directory / PARTS).is_dir() or (dataset is not None and not dataset.complete):
        words = "expected a finished dataset, found one that was interrupted; run the same command again"
        faults.add("unfinished", DATASET_FILE, words)
        return
    if (directory / REPAIR).exists():
        words = "expected none, found a repair that was interrupted; run it again"
        faults.add("unfinished", REPAIR, words)
    if files.listing is not None:
        _check_index(directory, files.listing, dataset, faults)
        check_unlisted(directory, files, faults)
        samples = {entry.name: entry.samples for entry in files.listing.shards}
    _check_sizes(directory, samples, faults)
    if dataset is not None and dataset.totals is not None:
        totals = dataset.totals
        found = (counted.samples + counted.failures, counted.samples, counted.failures, len(files.shards))
        wanted = (totals.records, totals.samples, totals.failures, totals.shards)
        for name, one, other in zip(("records", "samples", "failures", "shards"), wanted, found, strict=True):
            if one != other:
                words = f"totals: expected {one:,} {name} as it says, found {other:,}"
                faults.add("totals", DATASET_FILE, words)
        parent = dataset.description.parent
        if parent is not None and found[0] + sum(parent.left_out.values()) != parent.samples:
            words = (
                f"parent: expected its {parent.samples:,} samples to be here or left out, found {found[0]:,} "
            )
            words += f"here, {sum(parent.left_out.values()):,} left out"
            faults.add("totals", DATASET_FILE, words)
        if dataset.passes and dataset.listed != counted.samples + counted.failures:
            words = f"passes: expected samples and failures of {dataset.listed:,} records as they say, found "
            words += f"{counted.samples + counted.failures:,}"
            faults.add("totals", DATASET_FILE, words)


def _check_index(directory: Path, index: Index, dataset: Dataset | None, faults: Faults) -> None:
    if is_doubtful(index, dataset):
        words = f"expected the SHA-256 that {DATASET_FILE} has, found another: it is not as it was written"
        faults.add("index", INDEX_FILE, words)
    names = [entry.name for entry in index.entries]
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        faults.add("index", INDEX_FILE, f"expected each file once, found {twice} again")
    short = [entry.name for entry in index.shards if entry.samples != SHARD_SAMPLES]
    is_told = dataset is not None and (dataset.passes or dataset.description.parent)  # how many passes
    if dataset is not None and is_told and len(short) > max(1, len(dataset.passes)):
        words = f"expected {SHARD_SAMPLES:,} samples in each shard but a pass's last, found other numbers in "
        faults.add("index", INDEX_FILE, words + ", ".join(short[:3]))


def check_name(directory: Path, files: Files, verdict: ShardVerdict, found: Mapping[str, str | None]) -> None:
    """Raise DatasetError if a tar has the bytes of another one, of which others are `found`: it was moved."""
    for name, entry in files.shards:
        if entry and entry.sha256 == verdict.sha256 != found.get(name, entry.sha256):
            raise DatasetError(
                f"{directory / verdict.name}: expected the shard of that name, found that it is {name}: give "
                "the tars their names again, and repair what is at fault then"
            )


def check_unlisted(directory: Path, files: Files, faults: Faults) -> None:
    """Add a fault for each tar and Parquet file beside those of the dataset."""
    listed = {shard.name for shard in files.shards} | {name for name, _ in files.failures}
    listed |= {shard.name.replace(".tar", ".parquet") for shard in files.shards}
    for path in sorted(
        [*directory.glob("*.tar"), *directory.glob("*.parquet"), *directory.glob(f"{FAILURES}/*")]
    ):
        name = path.relative_to(directory).as_posix()
        if name not in listed and name != INDEX_FILE and not path.name.startswith("."):
            faults.add("unlisted", name, "expected only files that the index lists, found another one")


def _check_sizes(directory: Path, samples: dict[str, int], faults: Faults) -> None:
    try:
        found = parsed_json(read_bytes(directory / SIZES_FILE, MAX_JSON_BYTES))
    except FileNotFoundError:
        faults.add("missing", SIZES_FILE, "expected the file that OpenCLIP reads, found no such file")
        return
    except (OSError, ValueError) as error:
        faults.add("sizes", SIZES_FILE, f"expected JSON, found: {error}")
        return
    if found != samples:
        count = len(found) if isinstance(found, dict) else 0
        words = f"expected the samples of {len(samples):,} shards as the index has them, found other numbers"
        faults.add("sizes", SIZES_FILE, words + (f" or shards ({count:,})" if count != len(samples) else ""))


def _words(error: Exception, *places: Path) -> str:
    """Return what an error says behind the name of the file, which the fault has already."""
    words = " ".join(str(error).split())
    for place in places:
        words = words.removeprefix(f"{place}: ")
    return words
