"""A finished dataset that others are derived from: its files are read against the hashes of its index."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipkit.errors import DatasetError
from clipkit.locations import downloaded, each_of, is_remote, opened
from clipkit.processes import at_most_more_memory
from clipkit.shards.cache import Cache, Wanted
from clipkit.shards.checksums import checksum, checksums_of
from clipkit.shards.dataset import DATASET_FILE, read_dataset
from clipkit.shards.filling import Filling
from clipkit.shards.index import INDEX_FILE, IndexEntry, read_index
from clipkit.shards.parquet import MOST_BYTES, UNREADABLE, check_names, read_hashed, words_of
from clipkit.shards.parquet import REMEDY as OF_FILES
from clipkit.shards.schemas import MANIFEST_SCHEMA, begins_as_manifest
from clipkit.shards.whole import is_doubtful

_READ_BYTES = 1 << 20
_AHEAD = 8  # tars
WITHOUT = (
    "; `clipkit shards filter --where '{} is not null'` leaves out those without, as a repair makes them"
)
REMEDY = "; restore it, or leave its samples out with `clipkit shards filter --skip-broken`"
_NEEDED = ("caption", "ext", "image_offset", "image_bytes", "caption_offset", "caption_bytes")

Words = np.ndarray[tuple[int, int], np.dtype[np.uint64]]
Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]


class _Content(NamedTuple):
    bytes: int
    sha256: str


class Original:
    """A finished dataset, opened for reading. What its index says at first holds from then on.

    `schema` is the manifests' columns, kept ones too. Raises DatasetError if the directory is no dataset, is
    unfinished, has no samples, or has no manifest that can be read.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        index = read_index(directory)
        index.check_once(directory)
        dataset = read_dataset(directory)
        if not dataset.complete:
            raise DatasetError(
                f"{directory}: expected a finished dataset, found one that was interrupted; "
                "run the same `clipkit ingest` or `clipkit shards …` again, it goes on where it stopped"
            )
        if is_doubtful(index, dataset):
            raise DatasetError(
                f"{directory / INDEX_FILE}: expected the SHA-256 that {DATASET_FILE} has, found another; "
                f"{OF_FILES}"
            )
        self.description = dataset.description
        self.shards = index.shards
        self.fingerprint = index.fingerprint()
        self.index_sha256 = index.sha256
        self.sizes = np.array([shard.samples for shard in self.shards], dtype=np.int64)
        self.samples = int(self.sizes.sum())
        self.failures = sum(entry.samples for entry in index.failure_files)
        if not self.samples:
            raise DatasetError(f"{directory}: expected samples, found none; see its failures/ for why")
        self.schema = self._first_schema()
        self._damaged: dict[str, _Content] = {}  # tars of which whole samples are taken, as they were found

    def manifest(self, shard: IndexEntry, columns: list[str] | None = None) -> pa.Table:
        """Return a shard's manifest, or these columns of it. Raises DatasetError if it is not as it was."""
        path = (self.directory / shard.name).with_suffix(".parquet")
        with self._parquet(shard) as file:
            if not file.schema_arrow.equals(self.schema):
                raise DatasetError(
                    f"{path}: expected the columns {self.schema.names}, found {file.schema_arrow.names}"
                    f"{REMEDY}"
                )
            table: pa.Table = file.read(columns, use_threads=False)
            table.validate(full=True)
        if columns is None and not _is_possible(table, shard.bytes):
            raise DatasetError(f"{path}: expected captions and byte ranges, found impossible ones{REMEDY}")
        return table

    def manifests(
        self, shards: Iterable[IndexEntry], columns: list[str] | None = None
    ) -> Iterator[tuple[IndexEntry, pa.Table]]:
        """Yield each of the shards with its manifest, or these columns of it; raises as `manifest`."""

        def one(shard: IndexEntry) -> tuple[IndexEntry, pa.Table]:
            return shard, self.manifest(shard, columns)

        return each_of(one, shards, remote=is_remote(self.directory))

    def coming(self, shards: Sequence[IndexEntry]) -> Iterator[IndexEntry]:
        """Yield the shards, whose tars are to be read in this order.

        Behind an address the next ones are copied into the cache meanwhile.
        """
        if not is_remote(self.directory):
            yield from shards
            return
        cache = Cache()
        wanted = [_wanted(self.directory / shard.name, shard) for shard in shards]
        # No more than it holds beside the one that is read and the one that is taken out for the next.
        held = cache.max_bytes // max((each.bytes for each in wanted), default=1)
        filling = Filling(lambda place: cache.fill(wanted[place]))
        try:
            for place, shard in enumerate(shards):
                for ahead in range(place + 1, min(place + 1 + min(_AHEAD, held - 2), len(shards))):
                    if shards[ahead].name not in self._damaged:
                        filling.want(ahead)
                yield shard
        finally:
            filling.stop()

    @contextmanager
    def tar(self, shard: IndexEntry) -> Iterator[int]:
        """Yield the descriptor of a shard's tar, which has been read whole and is as the index says, or as
        `whole_samples` found it.

        Raises DatasetError if it is not.
        """
        path = self.directory / shard.name
        damaged = self._damaged.get(shard.name)
        expected = damaged or _Content(shard.bytes, shard.sha256)
        wanted = None if damaged else _wanted(path, shard)
        with ExitStack() as stack:
            descriptor = stack.enter_context(_opened(path, wanted))
            fault = _fault_of(path, expected, descriptor)
            if fault and wanted and is_remote(path):  # or is it the copy in the cache that was damaged since?
                Cache().forget(wanted)
                descriptor = stack.enter_context(_opened(path, wanted))
                fault = _fault_of(path, expected, descriptor)
            if fault:
                raise DatasetError(f"{path}: {fault}{REMEDY}")
            yield descriptor

    def whole_samples(self, shard: IndexEntry) -> Flags:
        """Tell of each sample of a tar that is not as the index says whether its picture and its caption are.

        They are if its manifest's checksum and caption say so; without checksums of none that is known. If
        any are, `tar` yields this tar as it is now. Raises DatasetError for the manifest, or if there is no
        tar.
        """
        manifest = self.manifest(shard)
        whole = np.zeros(shard.samples, dtype=np.bool_)
        checksums = checksums_of(manifest)
        if checksums is None:
            return whole
        path = self.directory / shard.name
        names = ("image_offset", "image_bytes", "caption_offset", "caption_bytes", "caption")
        columns = zip(checksums, *(manifest[name].to_pylist() for name in names), strict=True)
        with _opened(path) as descriptor:
            content = _content(path, descriptor)
            for row, (known, place, size, text_place, text_size, caption) in enumerate(columns):
                if text_place + text_size <= content.bytes:  # behind its picture
                    text = os.pread(descriptor, text_size, text_place)
                    whole[row] = (
                        text == caption.encode() and checksum(os.pread(descriptor, size, place)) == known
                    )
        if whole.any():
            self._damaged[shard.name] = content
        return whole

    def _first_schema(self) -> pa.Schema:
        problem: DatasetError | None = None
        for shard in self.shards:
            try:
                with self._parquet(shard) as file:
                    schema: pa.Schema = file.schema_arrow.remove_metadata()
            except DatasetError as error:
                problem = problem or error
                continue
            if not begins_as_manifest(schema):
                raise DatasetError(
                    f"{self.directory / shard.name}: expected a manifest with the columns "
                    f"{MANIFEST_SCHEMA.names}, found {schema.names}, or of other types"
                )
            return schema
        assert problem is not None, "there are samples"
        raise problem

    @contextmanager
    def _parquet(self, shard: IndexEntry) -> Iterator[pq.ParquetFile]:
        path = (self.directory / shard.name).with_suffix(".parquet")
        with _readable(path):
            data, sha256 = read_hashed(path, shard.manifest_sha256)
        if sha256 != shard.manifest_sha256:
            raise DatasetError(f"{path}: expected the SHA-256 {shard.manifest_sha256}, found another{REMEDY}")
        try:
            with (
                at_most_more_memory(MOST_BYTES),
                pq.ParquetFile(pa.BufferReader(data)) as file,
            ):
                check_names(file)
                if file.metadata.num_rows != shard.samples:
                    raise DatasetError(
                        f"{path}: expected {shard.samples} rows, found {file.metadata.num_rows}{REMEDY}"
                    )
                yield file
        except UNREADABLE as error:
            raise DatasetError(f"{path}: expected a manifest, found: {words_of(error)}{REMEDY}") from None


def sha256_words(column: pa.ChunkedArray, place: Path) -> Words:
    """Return SHA-256 values given as 64 hex digits as four big-endian 64-bit words each, (n, 4).

    Raises DatasetError, which names `place`, for anything else.
    """
    array = column.combine_chunks()
    if len(array) and pc.all(pc.match_substring_regex(array, "^[0-9a-f]{64}$"), skip_nulls=False).as_py():
        digits = "".join(array.to_pylist())
        return np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64).reshape(-1, 4)
    if len(array):
        found = f"none in {array.null_count:,} of {len(array):,}" if array.null_count else "something else"
        remedy = WITHOUT.format("sha256") if array.null_count else REMEDY
        raise DatasetError(f"{place}: expected 64 hex digits in each row of sha256, found {found}{remedy}")
    return np.zeros((0, 4), dtype=np.uint64)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DatasetError(f"{path}: the index lists this file, but it is missing{REMEDY}") from None
    except OSError as error:
        raise DatasetError(
            f"{path}: expected a file of the dataset, found: {error.strerror}{REMEDY}"
        ) from None


@contextmanager
def _opened(path: Path, wanted: Wanted | None = None) -> Iterator[int]:
    # The cache takes nothing but what is `wanted`.
    with ExitStack() as stack:
        with _readable(path):
            if wanted is not None and is_remote(path):
                descriptor = Cache().open(wanted)
            else:
                descriptor = opened(stack.enter_context(downloaded(path)))
        stack.callback(os.close, descriptor)
        yield descriptor


def _wanted(path: Path, shard: IndexEntry) -> Wanted:
    return Wanted(path, shard.bytes, shard.sha256)


def _fault_of(path: Path, expected: _Content, descriptor: int) -> str:
    """Read a tar whole; return how it is other than expected, or nothing."""
    found = _content(path, descriptor)
    if found.bytes != expected.bytes:
        return f"expected {expected.bytes:,} bytes, found {found.bytes:,}"
    return "" if found == expected else f"expected the SHA-256 {expected.sha256}, found another"


def _content(path: Path, descriptor: int) -> _Content:
    digest = hashlib.sha256()
    size = 0
    with _readable(path):
        while data := os.read(descriptor, _READ_BYTES):
            digest.update(data)
            size += len(data)
    return _Content(size, digest.hexdigest())


def _is_possible(manifest: pa.Table, tar_bytes: int) -> bool:
    if any(manifest[name].null_count for name in _NEEDED):
        return False
    names = ("image_offset", "image_bytes", "caption_offset", "caption_bytes")
    image, image_bytes, caption, caption_bytes = (
        manifest[name].to_numpy().astype(np.int64) for name in names
    )
    possible = (image >= 0) & (image_bytes >= 0) & (caption_bytes >= 0) & (caption < tar_bytes)
    # So that no sum is more than an int64 holds.
    possible &= (image <= caption - image_bytes) & (caption <= tar_bytes - caption_bytes)
    named = pc.all(pc.match_substring_regex(manifest["ext"], "^[a-z0-9]{1,16}$"))
    return bool(possible.all()) and bool(named.as_py())
