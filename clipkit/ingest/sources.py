"""Lists as streams of rows: what is common to every kind of source."""

import itertools
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from clipkit.errors import SourceError
from clipkit.ingest.rows import Chunk, UrlRow
from clipkit.locations import is_remote
from clipkit.shards.dataset import SourceFile
from clipkit.shards.text_files import name_without_compression

_VALIDATION = re.compile(r"(?<![a-z])val")
_SPLIT = re.compile(r"train(ing)?|val(id(ation)?)?")
_NAMED_IN_A_CALL = 3


@dataclass(frozen=True)
class Source:
    """Files of records. Every record becomes one row; one that is no URL and caption says why.

    `files` identify them, `records` is how many there are in all, `read` starts a stream of the rows, always
    in the same order. `reading` is what else the rows depend on, such as the columns chosen; `kept` are the
    columns that rows bring along for the manifest. Where that order is not the list's, `read_stretch` starts
    a stream of the rows of so many records from a number on.
    """

    files: tuple[SourceFile, ...]
    records: int
    read: Callable[[], Generator[UrlRow]]
    reading: Mapping[str, str | bool] = field(default_factory=dict)
    kept: tuple[pa.Field, ...] = ()
    read_stretch: Callable[[int, int], Generator[UrlRow]] | None = None

    def __iter__(self) -> Iterator[UrlRow]:
        """Yield one row a record. Raises SourceError if a file cannot be read."""
        return self.read()

    def stretch(self, first: int, records: int) -> Generator[UrlRow]:
        """Yield the rows of the list's `records` records from number `first` on. Raises as iterating does."""
        if self.read_stretch:
            with closing(self.read_stretch(first, records)) as rows:
                yield from rows
            return
        with closing(self.read()) as rows:  # dropped unfinished, it would lose a Ctrl-C that comes just then
            yield from itertools.islice(rows, first, first + records)

    @property
    def stem(self) -> str:
        """The first file's name without its folders and endings: what the dataset is called by default."""
        return name_without_compression(Path(self.files[0].name)).stem


def chunks(rows: Iterable[UrlRow], size: int) -> Iterator[Chunk]:
    """Cut rows into chunks of `size`, the last one perhaps shorter."""
    remaining = iter(rows)
    for number in itertools.count():
        taken = tuple(itertools.islice(remaining, size))
        if not taken:
            return
        yield Chunk(number, taken)


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Name each file, with as many of its folders as it takes to tell them apart.

    Raises SourceError if there is no file, or one is given twice, be it by a link or by `..`.
    """
    if not paths:
        raise SourceError("expected at least one list of URLs, found none")
    given: dict[str, Path] = {}
    for path in paths:
        place = str(path) if is_remote(path) else os.path.realpath(path)
        if place in given:
            other = "" if given[place] == path else f", as {given[place]} too"
            raise SourceError(f"{path}: expected each file once, found it twice{other}")
        given[place] = path
    parts = [path.absolute().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        encoded = (os.fsencode("/".join(each[-depth:])) for each in parts)
        names = [name.decode("utf-8", "replace") for name in encoded]
        if len(set(names)) == len(names):
            return names
    raise SourceError(f"{paths[0]}: expected names that tell the files apart, found some alike; rename them")


def refuse_mixed_splits(paths: Sequence[Path], command: str) -> None:
    """Raise SourceError, with the two calls to make, if names tell of both training and validation files.

    So do those of the folders that files lie in, if they are a split's name and nothing else.
    """
    validation = [path for path in paths if _VALIDATION.search(_name_of_split(path))]
    training = [path for path in paths if "train" in _name_of_split(path) and path not in validation]
    if training and validation:
        calls = [f"`clipkit ingest {command} {_listed(part)}`" for part in (training, validation)]
        raise SourceError(
            "expected files of one split, found training and validation files: one dataset is one split; "
            f"make two calls, {calls[0]} and {calls[1]}"
        )


def _name_of_split(path: Path) -> str:
    folder = path.absolute().parent.name.lower()
    return f"{folder} {path.name.lower()}" if _SPLIT.fullmatch(folder) else path.name.lower()


def _listed(paths: Sequence[Path]) -> str:
    more = " …" if len(paths) > _NAMED_IN_A_CALL else ""
    return " ".join(map(str, paths[:_NAMED_IN_A_CALL])) + more
