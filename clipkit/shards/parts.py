"""Parts: work in progress. A part is what became of one chunk of the source: a tar and a Parquet file.

Those of a pass lie in a folder of its own, which whoever begins the pass makes and its end removes, never a
worker: one of an earlier pass that was taken for lost finds no place for what it has.
"""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import pyarrow as pa

from clipkit.atomic import PICTURES_BUFFER, make_folder, named, replaced, write_table
from clipkit.locations import remove_tree
from clipkit.shards.format import HEADER_BYTES, padding, tar_end, tar_member
from clipkit.shards.parquet import read_parquet
from clipkit.shards.schemas import FAILURE_SCHEMA, part_schema

PARTS = "parts"
_TABLES = 8 * "[0-9]" + ".parquet"


def parts_folder(directory: Path, pass_number: int) -> Path:
    """Return where the parts of a pass over the dataset in `directory` lie."""
    return directory / PARTS / f"{pass_number:04d}"


def make_parts_folder(directory: Path, pass_number: int) -> Path:
    """Make the folder of a pass, unless it is there; remove what other passes left beside it."""
    folder = parts_folder(directory, pass_number)
    make_folder(folder)
    for other in folder.parent.iterdir() if folder.parent.exists() else ():
        if other.name != folder.name:
            # A worker of an earlier pass may be writing there yet: what it leaves is removed next time.
            remove_tree(other)
    return folder


def part_paths(folder: Path, chunk: int) -> tuple[Path, Path]:
    """Return the tar and the Parquet file of chunk `chunk` in a pass's folder."""
    stem = folder / f"{chunk:08d}"
    return stem.with_suffix(".tar"), stem.with_suffix(".parquet")


def complete_parts(folder: Path) -> Iterator[int]:
    """Yield the numbers of the parts that are whole, ascending: their Parquet files come into place last."""
    yield from sorted(int(path.stem) for path in folder.glob(_TABLES))


class PartWriter:
    """Writes one part into the `folder` of its pass; call `success` and `failure` in source order.

    A row is a dictionary of PART_SCHEMA's columns, a sample's also of the `kept` ones; absent ones are null,
    offsets and byte counts are filled in here. Leaving the `with` block renames the tar, then the Parquet
    file, into place, unless another writer has made the part meanwhile, which stays as it is; an exception
    leaves nothing. Raises OSError as the file system does, one that the folder is not there included.
    """

    def __init__(self, folder: Path, chunk: int, kept: Iterable[pa.Field] = ()):
        self._schema = part_schema(kept)
        self._tar_path, self._table_path = part_paths(folder, chunk)
        # A task that a cluster took for lost may still be at it, beside the one in its place.
        self._writer = secrets.token_hex(8)
        self._ending = ExitStack()
        self._rows: list[dict[str, Any]] = []
        self._size = 0
        self._tar: BinaryIO

    def __enter__(self) -> Self:
        temporary = self._ending.enter_context(replaced(self._tar_path, self._writer))
        self._tar = self._ending.enter_context(temporary.open("wb", PICTURES_BUFFER))
        return self

    def success(self, row: dict[str, Any], image: bytes) -> None:
        """Add a sample: its picture's bytes as stored, and its row with at least `ext` and `caption`."""
        key = f"{len(self._rows):09d}"
        caption = row["caption"].encode()
        row = row | {
            "image_offset": self._size + HEADER_BYTES,
            "image_bytes": len(image),
            "caption_offset": self._size + 2 * HEADER_BYTES + len(image) + padding(len(image)),
            "caption_bytes": len(caption),
        }
        members = tar_member(f"{key}.{row['ext']}", image) + tar_member(f"{key}.txt", caption)
        with named(self._tar_path):
            self._tar.write(members)
        self._size += len(members)
        self._rows.append(row)

    def failure(self, row: dict[str, Any]) -> None:
        """Add a URL that gave no sample: its row with FAILURE_SCHEMA's columns."""
        if row["reason"] is None:
            raise ValueError("a failure needs a reason")
        self._rows.append({name: row.get(name) for name in FAILURE_SCHEMA.names})

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._ending.__exit__(kind, value, trace)
            return
        with suppress(_SupersededError):
            with self._ending:
                self._tar.write(tar_end(self._size))
                if self._table_path.exists():  # and may have been read
                    raise _SupersededError
            table = pa.Table.from_pylist(self._rows, schema=self._schema)
            write_table(self._table_path, table, self._writer)


_REMEDY = "remove it and run the same ingest again"


class _SupersededError(Exception):
    """Another writer has made the part."""


def read_part(folder: Path, chunk: int, columns: list[str] | None = None) -> pa.Table:
    """Return the part's table, one row a URL in source order."""
    path = part_paths(folder, chunk)[1]
    return read_parquet(path, "a part that ingest wrote", columns, remedy=_REMEDY)
