"""The index: the one file that says which shards and failure files exist. Replacing it is the commit."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from clipkit.errors import DatasetError, NoDatasetError
from clipkit.json_values import parsed_json
from clipkit.locations import can_list, infos, is_remote, read_bytes
from clipkit.shards.format import SHARD_SAMPLES
from clipkit.shards.parquet import MAGIC, REMEDY, parsed, write_hashed
from clipkit.shards.schemas import INDEX_SCHEMA

INDEX_FILE = "index.parquet"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNTOLD = -1  # such a shard's bytes are counted when they have come
_PROGRESS = b"clipkit.ingest"
_SHARDS = re.compile(r"[0-9]{6}\.tar")
_FAILURES = re.compile(r"failures/[0-9]{6}\.parquet")
_MOST_FAILURES = 1 << 40


class IndexEntry(NamedTuple):
    """One committed file: `kind` is "shard" (a tar and its manifest) or "failures"."""

    kind: str
    name: str
    samples: int
    bytes: int
    sha256: str
    manifest_sha256: str | None


class IngestProgress(NamedTuple):
    """How far a pass over the source has been packed: the next sample to place, the next failures to file.

    `pass_number` is the pass's place among the dataset's, from 0. `chunk` and `row` name the first row of its
    chunks' tables that no shard holds yet; `failures` is the first chunk whose failures are in no failure
    file yet. Chunks below both are done with. Its failure files are numbered from `first_failure_file` on.
    """

    pass_number: int = 0
    chunk: int = 0
    row: int = 0
    failures: int = 0
    first_failure_file: int = 0


@dataclass
class Index:
    """The committed files of a dataset, in order, and how far ingest has come.

    `sha256` (hex) is that of the file that was read or written last.
    """

    entries: list[IndexEntry] = field(default_factory=list)
    progress: IngestProgress = field(default_factory=IngestProgress)
    sha256: str = ""

    @property
    def shards(self) -> list[IndexEntry]:
        """The shards in order."""
        return [entry for entry in self.entries if entry.kind == "shard"]

    @property
    def failure_files(self) -> list[IndexEntry]:
        """The failure files in order."""
        return [entry for entry in self.entries if entry.kind == "failures"]

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the shards' names, sizes and hashes: the identity of the data."""
        lines = "".join(f"{shard.name}\t{shard.samples}\t{shard.sha256}\n" for shard in self.shards)
        return hashlib.sha256(lines.encode()).hexdigest()

    def check_once(self, directory: Path) -> None:
        """Raise DatasetError for a shard that is listed twice."""
        names = sorted(shard.name for shard in self.shards)
        if twice := next((name for name, following in pairwise(names) if name == following), None):
            raise DatasetError(
                f"{directory / INDEX_FILE}: expected each shard once, found {twice} twice; {REMEDY}"
            )

    def check_files(self, directory: Path) -> list[int]:
        """Raise DatasetError for a shard that is missing in `directory`, or of another size than listed.

        Also for one whose manifest is missing, or that is listed twice. Return the manifests' sizes in bytes,
        below 0 where a server does not tell it.
        """
        self.check_once(directory)
        tars = [directory / shard.name for shard in self.shards]
        manifests = [path.with_suffix(".parquet") for path in tars]
        sizes = file_sizes([*tars, *manifests])
        for number, (shard, path, manifest) in enumerate(zip(self.shards, tars, manifests, strict=True)):
            found = sizes[number]
            missing = path if found is None else manifest if sizes[len(tars) + number] is None else None
            if missing is not None:
                raise DatasetError(
                    f"{missing}: the index lists this shard, but it is missing; "
                    "restore it, or ingest again into a new directory"
                )
            if found not in (shard.bytes, _UNTOLD):
                raise DatasetError(
                    f"{path}: expected {shard.bytes} bytes as the index says, found {found}; restore it"
                )
        return [size or 0 for size in sizes[len(tars) :]]

    def write(self, directory: Path) -> None:
        """Replace the directory's index by this one, whose `sha256` it gets: shards by number, then failure
        files.
        """
        self.entries.sort(key=lambda entry: (entry.kind != "shard", entry.name))
        columns = {name: [getattr(entry, name) for entry in self.entries] for name in INDEX_SCHEMA.names}
        schema = INDEX_SCHEMA.with_metadata({_PROGRESS: json.dumps(self.progress._asdict()).encode()})
        self.sha256 = write_hashed(directory / INDEX_FILE, pa.table(columns, schema=schema))


def index_sha256(directory: Path) -> str:
    """Return the SHA-256 (hex) of a dataset's index. Raises OSError as reading does."""
    return hashlib.sha256(read_bytes(directory / INDEX_FILE)).hexdigest()


def file_sizes(paths: Sequence[Path]) -> list[int | None]:
    """Return sizes in bytes: None for what is not there, below 0 where a server has it but does not tell."""
    if not paths or not is_remote(paths[0]):
        return [_file_size(path) for path in paths]
    return [_told_size(info) if info else None for info in infos(paths)]


def _told_size(info: Mapping[str, Any]) -> int:
    return _UNTOLD if info["size"] is None else int(info["size"])


def _file_size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _is_possible(entry: IndexEntry) -> bool:
    is_shard = entry.kind == "shard"
    names = _SHARDS if is_shard else _FAILURES
    hashes = (entry.sha256, entry.manifest_sha256)[: 1 + is_shard]
    if None in (entry.samples, entry.bytes) or entry.kind not in ("shard", "failures"):
        return False
    if not names.fullmatch(str(entry.name)) or not all(_SHA256.fullmatch(str(each)) for each in hashes):
        return False
    return 0 < entry.samples <= (SHARD_SAMPLES if is_shard else _MOST_FAILURES) and entry.bytes > 0


def read_index(directory: Path) -> Index:
    """Read a dataset's index. Raises NoDatasetError if there is none, DatasetError if it is not one."""
    path = directory / INDEX_FILE
    try:
        content = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        found = "an ingest that has not finished" if (directory / "parts").is_dir() else "none"
        if can_list(directory) and not directory.is_dir():
            found = "a file" if directory.exists() else "no such directory"
        raise NoDatasetError(
            f"{directory}: expected a dataset directory with {INDEX_FILE}, found {found}; "
            "give the directory that `clipkit ingest` wrote, or run it to its end"
        ) from None
    except OSError as error:
        raise DatasetError(
            f"{path}: expected a Parquet index, found: {error.strerror or error}; "
            "mend that and run the same command again"
        ) from None
    table = parsed(content)
    if isinstance(table, str):
        is_page = is_remote(path) and not content.startswith(MAGIC)
        remedy = "is the address right, and does the server want no login?" if is_page else REMEDY
        raise DatasetError(f"{path}: expected a Parquet index, found: {table}; {remedy}")
    if not table.schema.equals(INDEX_SCHEMA):
        raise DatasetError(
            f"{path}: expected the columns {INDEX_SCHEMA.names}, found {table.schema.names}, or other types; "
            "is it a clipkit index?"
        )
    entries = [IndexEntry(**row) for row in table.to_pylist()]
    if strange := next((entry for entry in entries if not _is_possible(entry)), None):
        raise DatasetError(
            f"{path}: expected files such as 000000.tar, shards of 1 to {SHARD_SAMPLES:,} samples, each with "
            f"bytes and hashes, found {strange.name!r}, {strange.kind} of {strange.samples} samples and "
            f"{strange.bytes} bytes; restore the index"
        )
    try:
        progress = IngestProgress(**parsed_json((table.schema.metadata or {}).get(_PROGRESS, b"{}")))
    except (ValueError, TypeError):
        raise DatasetError(
            f"{path}: expected how far ingest has come, found something else; restore the index"
        ) from None
    return Index(entries, progress, hashlib.sha256(content).hexdigest())
