"""The files of a source of tars, of this machine or behind addresses: those are read through the cache."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from clipkit.ingest.list_files import CachedFile, identify
from clipkit.ingest.table_formats import Parquet
from clipkit.locations import each_of, infos, is_remote
from clipkit.remote import RefusedError
from clipkit.shards.cache import Cache, Wanted
from clipkit.shards.dataset import SourceFile
from clipkit.shards.foreign import of_address, of_addresses
from clipkit.shards.tar_reader import TarReader


class StoredFile(NamedTuple):
    """A file; behind an address it is `wanted` of the cache, by its SHA-256 once that is known."""

    path: Path
    wanted: Wanted | None = None

    @property
    def place(self) -> str | Wanted:
        """Where a row says that its picture lies."""
        return self.wanted or str(self.path)

    def identify(self, name: str) -> tuple["StoredFile", SourceFile]:
        """Return the file as it is read from now on, and what identifies it under `name`.

        Raises SourceError, and as Cache.open.
        """
        if self.wanted is None:
            return self, identify(self.path, name)
        file = CachedFile(self.wanted).known()
        return self._replace(wanted=file.wanted), file.identity(name)

    def tar(self) -> TarReader:
        """Open it as a tar. Raises as TarReader and Cache.open."""
        return TarReader(self.path, Cache().open(self.wanted) if self.wanted else None)

    def table(self) -> Parquet:
        """Open it as a table. Raises as Parquet and Cache.open."""
        return Parquet(cast("Path", CachedFile(self.wanted)) if self.wanted else self.path)


def stored_files(paths: Sequence[Path]) -> list[StoredFile]:
    """Return the files; those behind addresses are asked for. Raises DatasetError for one that is missing."""
    known = iter(of_addresses(paths))
    return [StoredFile(path, next(known).wanted if is_remote(path) else None) for path in paths]


def tables_beside(tars: Sequence[StoredFile], say: Callable[[str], None]) -> list[StoredFile | None]:
    """Return the Parquet file of the same stem beside each tar, None where there is none.

    One that a store refuses to show counts as not there, which is said: many answer so for what is not there.
    """
    beside = [tar.path.with_suffix(".parquet") for tar in tars]
    there = [path for path, tar in zip(beside, tars, strict=True) if tar.wanted and tar.path.suffix == ".tar"]
    known, refused = _known(there)
    if refused:
        say(f"check: {len(refused):,} tables such as {refused[0]} may not be read: taken as not there")
    found: list[StoredFile | None] = []
    for path, tar in zip(beside, tars, strict=True):
        if tar.wanted:
            info = known.get(path)
            found.append(StoredFile(path, of_address(path, info).wanted) if info else None)
        else:
            found.append(StoredFile(path) if path != tar.path and path.is_file() else None)
    return found


def _known(paths: Sequence[Path]) -> tuple[dict[Path, Mapping[str, Any] | None], list[Path]]:
    try:
        return dict(zip(paths, infos(paths), strict=True)), []
    except RefusedError:
        refused: list[Path] = []

    def asked(path: Path) -> Mapping[str, Any] | None:
        try:
            return infos([path])[0]
        except RefusedError:
            refused.append(path)
            return None

    return dict(zip(paths, each_of(asked, paths, remote=True), strict=True)), refused
