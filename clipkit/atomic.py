"""Files that appear whole or not at all: written under a temporary name, flushed to disk, renamed."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit import scratch
from clipkit.locations import decoded, is_remote, upload

if TYPE_CHECKING:
    import pyarrow as pa

PICTURES_BUFFER = 262_144
"""Bytes to buffer of a file of many pictures: written ten at a time they cost half."""

TEMPORARIES = ".*.tmp"
"""The pattern of temporary files' names: what a kill may leave behind."""


def temporary_path(path: Path, writer: str = "") -> Path:
    """Return the temporary name beside `path`, free to be created: what a kill left there is removed.

    Where several may write `path`, on a cluster say, each is a `writer` with a name of its own.
    """
    temporary = path.with_name(f".{path.name}.{writer}.tmp" if writer else f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    return temporary


@contextmanager
def replaced(path: Path, writer: str = "") -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed and renamed over `path`, else removed.

    Behind an address `path` appears whole once it has been uploaded from a temporary file of this machine.
    Only one `writer` of that name per path at a time. Raises OSError as the file system does (a full disk,
    say), but with the name `path` if it has none or the temporary one; `path` then is as it was before.
    """
    if is_remote(path):
        with scratch.folder() as folder:
            yield folder / path.name
            upload(folder / path.name, path)
        return
    temporary = temporary_path(path, writer)
    try:
        with named(path):
            yield temporary
            flush(temporary)
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, which takes its place on success, and else is removed.

    All that lies in the old folder goes with it, but only once the new one has its name: a kill in between
    leaves the old one beside `path`, and the next call puts it back. Only one writer per path at a time.
    Raises OSError as the file system does; `path` then is as it was before.
    """
    path = path.resolve()
    temporary, old = (path.with_name(f".{path.name}.{which}.tmp") for which in ("new", "old"))
    if old.exists() and not path.exists():
        old.rename(path)
    for left in (temporary, old):
        if left.exists():
            shutil.rmtree(left)
    try:
        temporary.mkdir()
        yield temporary
        for file in (*temporary.iterdir(), temporary):
            flush(file)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except BaseException as error:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and str(error.filename or temporary).startswith(str(temporary)):
            error.filename = str(path)
        raise
    flush(path.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Let an OSError that names no file, as a failed write's does not, or the temporary one, name `path`."""
    try:
        yield
    except OSError as error:
        name = str(error.filename or "").rpartition("/")[2]
        if error.filename is None or (name.startswith(f".{path.name}.") and name.endswith(".tmp")):
            error.filename = str(path)
        raise


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are not there, so that they stay there after a power cut.

    Behind an address there are none.
    """
    if is_remote(path):
        return
    if not path.parent.is_dir():
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    flush(path.parent)


def flush(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_link(path: Path, target: str) -> None:
    """Replace `path` by a symbolic link to `target`, a name in the same folder."""
    temporary = temporary_path(path)
    temporary.symlink_to(target)
    temporary.replace(path)
    flush(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON with a final newline; of names of files, see `decoded`."""
    write_text(path, decoded(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")


def write_table(path: Path, table: "pa.Table", writer: str = "") -> None:
    """Replace `path` by `table` as Parquet (zstd)."""
    with replaced(path, writer) as temporary:
        write_parquet(temporary, table)


def write_parquet(path: Path, table: "pa.Table") -> None:
    """Write `table` as Parquet (zstd) to a file that `replaced` has given."""
    import pyarrow.parquet as pq

    with path.open("wb") as file:  # of a file's name pyarrow takes UTF-8 alone
        pq.write_table(table, file, compression="zstd")
