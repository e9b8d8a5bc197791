"""One shard, verified: its tar in one pass against the index and the manifest, and why, where they differ."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clipkit.digests import file_sha256
from clipkit.errors import DatasetError
from clipkit.locations import downloaded, is_remote, opened
from clipkit.pictures import MAX_PIXELS
from clipkit.shards.checksums import checksum, checksums_of
from clipkit.shards.faults import LISTED_OF_FILE, Faults
from clipkit.shards.index import IndexEntry
from clipkit.shards.layout import Row, fixed_bytes
from clipkit.shards.manifest_check import CheckedManifest, check_manifest
from clipkit.shards.picture_check import picture_fault
from clipkit.shards.records import Rows
from clipkit.shards.walk import walk
from clipkit.threads import not_waited_for

_AT_ONCE = 1 << 20  # what the second of two looks at a byte finds in the processor's cache


class Listed(NamedTuple):
    """A shard to be verified; `entry` is None where no index can be read."""

    name: str
    entry: IndexEntry | None


class How(NamedTuple):
    """How thoroughly: with `decode` each picture is decoded, and hashed if they are `as_served`."""

    decode: bool = False
    as_served: bool = False
    max_pixels: int = MAX_PIXELS


class Records(NamedTuple):
    """Which source records a file accounts for: `sources[of_source[i]]`, `rows[i]`; `unknown` have none."""

    sources: list[str]
    of_source: Rows
    rows: Rows
    unknown: int


class ShardVerdict(NamedTuple):
    """What was found in a shard: `samples` and `records` of its manifest, `bytes` and `sha256` of its tar.

    What could not be read is None, or 0.
    """

    name: str
    faults: Faults
    samples: int = 0
    bytes: int = 0
    records: Records | None = None
    sha256: str | None = None
    manifest_sha256: str | None = None

    @property
    def differs_from_manifest(self) -> bool:
        """Whether the tar is other than its manifest says, whatever the index says of either."""
        found = (fault.cause for fault in self.faults.listed if fault.file == self.name)
        return any(cause not in ("bytes", "sha256") for cause in found)

    def beside(self, entry: IndexEntry | None) -> list[str]:
        """Return a line for each picture that is not as its manifest says, where no index says of either."""
        return [fault.line() for fault in self.faults.listed if entry is None and fault.cause == "picture"]


class _Passed(NamedTuple):
    sha256: str
    bytes: int
    is_as_expected: bool


def verify_shard(directory: Path, listed: Listed, how: How) -> ShardVerdict:
    """Verify one shard of the dataset in `directory`. Whatever is wrong with it is a fault of the verdict."""
    verdict = _verdict(directory, listed, how)
    if is_remote(directory) and verdict.faults.of(("bytes", "sha256")):  # or was it damaged on its way?
        verdict = _verdict(directory, listed, how)
    return verdict


def _verdict(directory: Path, listed: Listed, how: How) -> ShardVerdict:
    faults = Faults(3 * LISTED_OF_FILE)  # no check hides what another one found
    manifest = None
    try:
        manifest = check_manifest((directory / listed.name).with_suffix(".parquet"), listed.entry, faults)
    except OSError as error:
        words = f"expected to read the manifest, found: {error.strerror or error}"
        faults.add("unreadable", Path(listed.name).stem + ".parquet", words)
    passed = None
    try:
        with downloaded(directory / listed.name) as path:
            descriptor = opened(path)
            try:
                passed = _Tar(descriptor, listed, manifest, faults).check(how)
            finally:
                os.close(descriptor)
    except FileNotFoundError:
        faults.add("missing", listed.name, "expected the shard's tar, found no such file")
    except OSError as error:
        faults.add("unreadable", listed.name, f"expected to read the tar, found: {error.strerror or error}")
    # What is missing is told already: by the index's number it is not told again as a wrong sum.
    samples = len(manifest.table) if manifest else listed.entry.samples if listed.entry else 0
    return ShardVerdict(
        name=listed.name,
        faults=faults,
        samples=samples,
        bytes=passed.bytes if passed else 0,
        records=records_of(manifest.table) if manifest else None,
        sha256=passed.sha256 if passed else None,
        manifest_sha256=manifest.sha256 if manifest else None,
    )


@contextmanager
def as_verified(directory: Path, verdict: ShardVerdict) -> Iterator[Path]:
    """Yield the tar that a verdict is on. One behind an address is had once more: raises DatasetError for
    other bytes than those that were verified.
    """
    with downloaded(directory / verdict.name) as tar:
        if is_remote(directory) and file_sha256(tar) != verdict.sha256:
            raise DatasetError(
                f"{directory / verdict.name}: expected the bytes that were verified, found others; "
                "they are damaged on their way, or another process changes them: repair again"
            )
        yield tar


def records_of(table: pa.Table) -> Records:
    """Return the records that the rows of a manifest or of a failure file are of."""
    known = table.select(["source", "source_row"]).drop_null()
    sources = known["source"].combine_chunks().dictionary_encode()
    if isinstance(sources, pa.ChunkedArray):
        sources = sources.combine_chunks()
    rows = known["source_row"].to_numpy().astype(np.int64)
    of_source = sources.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return Records(sources.dictionary.to_pylist(), of_source, rows, len(table) - len(known))


class _Tar:
    def __init__(self, descriptor: int, listed: Listed, manifest: CheckedManifest | None, faults: Faults):
        self._descriptor = descriptor
        self._name, self._entry = listed
        self._manifest = manifest
        self._rows = manifest.rows if manifest else None
        self._faults = faults

    def check(self, how: How) -> _Passed:
        """Check the tar; return what it is."""
        before = self._state()
        passed = self._pass()
        wrong = self._entry is not None and passed.sha256 != self._entry.sha256
        if self._entry is not None and passed.bytes != self._entry.bytes:
            words = f"expected {self._entry.bytes:,} bytes as the index says, found {passed.bytes:,}"
            self._faults.add("bytes", self._name, words)
        located = 0
        if not passed.is_as_expected:
            with not_waited_for():
                walked = walk(self._descriptor, passed.bytes, self._name, self._rows)
            self._faults.take(walked.faults)
            located = len(walked.faults)
        is_whole = self._entry is None or passed.bytes == self._entry.bytes
        if self._manifest is not None and self._rows is not None:
            checksums = checksums_of(self._manifest.table)
            doubted = checksums is not None and is_whole and (wrong or self._entry is None)
            if how.decode or doubted or (wrong and not located):
                located += self._check_pictures(self._manifest.table, self._rows, checksums, how)
        if wrong:
            assert self._entry is not None
            words = f"expected the SHA-256 {self._entry.sha256} as the index says, found {passed.sha256}"
            words += "" if located else "; which of the pictures changed cannot be told"
            self._faults.add("sha256", self._name, words)
        if self._state() != before:
            self._faults.add(
                "changed", self._name, "expected a shard that stays, found that it changed while read"
            )
        return passed

    def _state(self) -> tuple[int, int]:
        found = os.fstat(self._descriptor)
        return found.st_size, found.st_mtime_ns

    @not_waited_for()
    def _pass(self) -> _Passed:
        """Read the tar once: hash all of it, and compare what is not picture with what must be there."""
        pieces = _Pieces(int(self._name[:6]), self._rows)
        digest, place = hashlib.sha256(), 0
        buffer = bytearray(_AT_ONCE)
        view = memoryview(buffer)
        while read := os.preadv(self._descriptor, [buffer], place):
            digest.update(view[:read])
            pieces.compare(buffer, place, place + read)
            place += read
        return _Passed(digest.hexdigest(), place, pieces.are_all_found(place))

    def _check_pictures(
        self, table: pa.Table, rows: Sequence[Row], checksums: Sequence[int] | None, how: How
    ) -> int:
        faults = Faults(LISTED_OF_FILE)
        names = ("key", "image_offset", "width", "height", "sha256")
        columns = [*(table[name].to_pylist() for name in names), checksums or [None] * len(rows)]
        for row, key, offset, width, height, sha256, crc in zip(rows, *columns, strict=True):
            with not_waited_for():
                data = os.pread(self._descriptor, row.image_bytes, offset)
            is_other = crc not in (None, checksum(data))
            found = None
            if how.decode or crc is None or is_other:
                found = picture_fault(data, width, height, how.max_pixels)
            if found is None and how.as_served and sha256 not in (None, hashlib.sha256(data).hexdigest()):
                found = "expected the bytes as served, of the manifest's SHA-256, found others"
            if found is None and is_other:
                found = "expected the manifest's CRC-32, found another, although it can be decoded"
            if found:
                faults.add("picture", self._name, found, member=f"{key}.{row.ext}", byte=offset)
        self._faults.take(faults)
        return len(faults)


class _Pieces:
    """What must be in a tar beside its pictures, compared as the tar is read from its start on."""

    def __init__(self, shard: int, rows: Sequence[Row] | None):
        self._pieces: Iterator[tuple[int, bytes]] = fixed_bytes(shard, rows) if rows else iter(())
        self._is_right = rows is not None and len(rows) > 0
        self._end = 0
        self._place, self._piece = -1, b""
        self._next()

    def compare(self, buffer: bytearray, start: int, end: int) -> None:
        """Compare the bytes from `start` to `end` of the tar, which lie in `buffer` from its beginning."""
        while self._is_right and 0 <= self._place < end:
            part = self._piece[: end - self._place]
            if not buffer.startswith(part, self._place - start):
                self._is_right = False
            elif len(part) == len(self._piece):
                self._next()
            else:
                self._place, self._piece = end, self._piece[len(part) :]

    def are_all_found(self, size: int) -> bool:
        """Tell whether a tar of `size` bytes, all of them compared, is as it must be."""
        return self._is_right and self._place < 0 and self._end == size

    def _next(self) -> None:
        self._end = self._place + len(self._piece)
        self._place, self._piece = next(self._pieces, (-1, b""))
