"""Tars of other tools as shards, read where their samples lie."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipkit.errors import DatasetError
from clipkit.json_values import parsed_json, without_halves
from clipkit.locations import infos, is_remote, version_of
from clipkit.progress import Progress
from clipkit.shards.cache import Cache
from clipkit.shards.headers import CAPTIONS, MOST_BROKEN, PICTURES, Tar, dotted, error_of, headers, indexed
from clipkit.shards.patterns import ABSENT, missing_of, tar_paths
from clipkit.shards.shard_files import RANGES, Rows, SampleError, check_ranges
from clipkit.shards.tar_reader import TarReader


class ForeignTars:
    """The samples of tars that `sources` name: folders, patterns, addresses.

    `left_out` counts those without a picture or a caption. Raises DatasetError for a tar that is missing,
    compressed, cut off or damaged, and if there are no samples.
    """

    def __init__(self, sources: Sequence[str], progress: Callable[[str, int | None, str], Progress]):
        self._tars = _described(tar_paths(sources))
        self._cache = Cache()
        self.remote = any(is_remote(tar.path) for tar in self._tars)
        self.names = [tar.path.name for tar in self._tars]
        self.tar_bytes = np.array([tar.bytes for tar in self._tars], dtype=np.int64)
        self.left_out = 0
        sizes, digest = [], hashlib.sha256()
        broken: list[tuple[str, DatasetError]] = []
        with progress("index", len(self._tars), "tars") as display:
            for number, each in enumerate(indexed(self._tars, self._cache), 1):
                if isinstance(each, DatasetError):
                    broken.append((self.names[number - 1], each))
                    if len(broken) == MOST_BROKEN:
                        break
                    continue
                sizes.append(each.samples)
                self.left_out += each.left_out
                digest.update(each.digest)
                display.update(number, f"{sum(sizes):,} samples")
            if broken:
                raise error_of(broken)
            if self.left_out:
                display.say(
                    f"index: {self.left_out:,} samples have no picture or no caption and are left out"
                )
        self.sizes = np.array(sizes, dtype=np.int64)
        self.fingerprint = digest.hexdigest()
        if not self.sizes.sum():
            raise DatasetError(
                f"{' '.join(sources)}: expected samples, found none with a picture "
                f"({', '.join(PICTURES)}) and a caption (txt, or a json's {' or '.join(CAPTIONS)}) "
                f"in {len(self._tars):,} tars{self._dotted()}"
            )

    def _dotted(self) -> str:
        with TarReader(self._tars[0].path, self._tars[0].open(self._cache)) as reader:
            return next(map(dotted, reader.samples(())), "")

    def place(self, shard: int) -> str:
        """Return where the tar lies, for messages."""
        return str(self._tars[shard].path)

    def open(self, shard: int) -> int:
        """Return a descriptor of a tar. Raises DatasetError if it is not what it was."""
        return self._tars[shard].open(self._cache)

    def rows(self, shard: int) -> Rows:
        """Return what the index of a tar's headers says."""
        tar = self._tars[shard]
        table = headers(tar, self._cache)
        ranges = np.stack([table[name].to_numpy() for name in RANGES], axis=1)
        check_ranges(self.place(shard), ranges, int(self.sizes[shard]), tar.bytes)
        fields = table["caption_field"].to_pylist()
        return Rows(ranges, fields if any(fields) else None, table["key"])

    def short_sides(self, shard: int) -> None:
        """Tars of other tools do not tell."""
        return

    def caption(self, text: bytes, rows: Rows, row: int) -> str:
        """Return the caption, what is no UTF-8 in it as U+FFFD. Raises SampleError if its field is gone."""
        field = rows.fields[row] if rows.fields else None
        if field is None:
            return text.decode(errors="replace")
        try:
            value = parsed_json(text)[field]
        except (ValueError, LookupError, TypeError):
            value = None
        if not isinstance(value, str):
            raise SampleError(f"its json has no caption in the field {field!r}; was the tar changed?")
        return without_halves(value)

    def fill(self, shard: int) -> None:
        """Have a tar behind an address copied into the cache."""
        if is_remote(self._tars[shard].path):
            self._cache.fill(self._tars[shard].wanted)

    def key(self, shard: int, rows: Rows, row: int) -> str:
        """Return a sample's key."""
        assert rows.keys is not None
        return str(rows.keys[row])


def _described(paths: Sequence[Path]) -> list[Tar]:
    known = iter(of_addresses(paths))
    return [next(known) if is_remote(path) else _of_disk(path) for path in paths]


def _of_disk(path: Path) -> Tar:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise DatasetError(f"{path}: expected a tar, found no such file; {ABSENT}") from None
    return Tar(path.absolute(), found.st_size, str(found.st_mtime_ns))


def of_addresses(paths: Sequence[Path]) -> list[Tar]:
    """Return those of the tars that lie behind addresses. Raises DatasetError if some are not there."""
    there = [path for path in paths if is_remote(path)]
    known = infos(there)
    missing = [path for path, info in zip(there, known, strict=True) if info is None]
    if len(missing) > 1:
        raise missing_of(missing, len(paths))
    return [of_address(path, info) for path, info in zip(there, known, strict=True)]


def of_address(path: Path, info: Mapping[str, Any] | None) -> Tar:
    """Return a tar behind an address of which `infos` told this. Raises DatasetError if it is not there."""
    if info is None:
        raise DatasetError(f"{path}: expected a tar, found no such file; {ABSENT}")
    if info["size"] is None:
        raise DatasetError(
            f"{path}: expected a server that tells a file's size, found one that does not; download the tar"
        )
    return Tar(path, info["size"], version_of(info))
