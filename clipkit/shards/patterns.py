"""What names tars: files, folders, brace patterns as webdataset and OpenCLIP take them, and globs."""

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipkit.errors import DatasetError
from clipkit.locations import can_list, is_remote, location, scheme_of
from clipkit.shards.dataset import DATASET_FILE
from clipkit.shards.shard_files import DatasetFiles

ABSENT = "check the name, or fetch what it names"
MAX_TARS = 1_000_000
_NAMED = 3
PATTERN = re.compile(r"[*?\[{]|::")
"""What makes a name one of several tars."""
_COMMAND = re.compile(r"pipe:", re.IGNORECASE)
_GLOB = re.compile(r"[*?\[]")
_NUMBERS = re.compile(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})(?:\.\.-?([0-9]{1,18}))?")
_LETTERS = re.compile(r"([a-z])\.\.([a-z])|([A-Z])\.\.([A-Z])")


def tar_paths(sources: Sequence[str]) -> list[Path]:
    """Return the tars that `sources` name, in that order; a directory stands for its *.tar by name, a
    dataset directory for the shards of its index.

    A source that is no file or directory is split at `::`, its braces are expanded, and what then has *, ? or
    [ is a glob. Raises DatasetError, with the first few names, if some of these tars are missing, and for
    commands; whether a tar is there behind an address is not looked at.
    """
    paths = []
    for pattern in itertools.chain.from_iterable(map(_patterns, sources)):
        paths += _found(pattern)
        if len(paths) > MAX_TARS:
            raise DatasetError(
                f"{pattern}: expected at most {MAX_TARS:,} tars, found more; make several calls"
            )
    missing = [path for path in paths if not is_remote(path) and not _exists(path)]
    if missing:
        raise missing_of(missing, len(paths))
    return [tar for path in paths for tar in (_inside(path) if _is_folder(path) else [path])]


def missing_of(missing: Sequence[Path], tars: int) -> DatasetError:
    """Return the error for some of so many tars that are not there, which names the first few."""
    more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
    return DatasetError(
        f"{', '.join(map(str, missing[:_NAMED]))}{more}: expected {tars:,} tars, found {len(missing):,} "
        "of them missing; restore them, or name only those that are there"
    )


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield what bash makes of the braces: {a,b}, {00..12}, {0..12..3}, {a..e}, nested and one after another.

    Raises DatasetError for a brace that is never closed.
    """
    opening = pattern.find("{")
    if opening < 0:
        yield pattern
        return
    inside, behind = _balanced(pattern, opening)
    for middle in _alternatives(inside):
        for rest in expand_braces(behind):
            yield pattern[:opening] + middle + rest


def _exists(path: str | Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 (a Path raises if its name is too long)


def _is_folder(path: Path) -> bool:
    if not is_remote(path):
        return path.is_dir()
    # A tar behind an address is named as one; asking for each of thousands would take its time.
    if path.suffix == ".tar":
        return False
    return path.is_dir() if can_list(path) else (path / DATASET_FILE).exists()


def _patterns(source: str) -> Iterator[str]:
    if _exists(source):
        return iter([source])
    pieces = source.split("::")
    for piece in pieces:
        if _COMMAND.match(piece):
            raise DatasetError(f"{piece}: expected tars, found a command; those are never run")
    return itertools.chain.from_iterable(map(expand_braces, pieces))


def _found(pattern: str) -> list[Path]:
    if not pattern:
        raise DatasetError("expected the name of a tar, found an empty one; look at the pattern's ends")
    if scheme_of(pattern) is not None:
        return _found_there(pattern)
    if not _GLOB.search(pattern) or _exists(pattern):
        return [Path(pattern)]
    matches = sorted(glob.iglob(pattern, recursive=True))  # noqa: PTH207 (a Path's glob is relative)
    if not matches:
        raise DatasetError(f"{pattern}: expected tars of such names, found none; {ABSENT}")
    return [Path(match) for match in matches]


def _found_there(address: str) -> list[Path]:
    place = location(address)
    if not _GLOB.search(address) or _is_called_so(place):
        return [place]
    folder, slash, name = address.rpartition("/")
    if _GLOB.search(folder):
        raise DatasetError(
            f"{address}: expected *, ? and [ only behind the last slash of an address, found one before; "
            "name the folder in full, or give braces there"
        )
    if not can_list(place):
        if "*" not in place.name:  # ? begins a query there
            return [place]
        raise DatasetError(
            f"{address}: expected the names of tars, found *: web servers list no folders; name each, or all "
            "by braces: {00000..00331}.tar"
        )
    if not _GLOB.search(name):
        return [place]
    matches = sorted(location(folder + slash).glob(name), key=str)
    if not matches:
        raise DatasetError(f"{address}: expected tars of such names, found none; {ABSENT}")
    return matches


def _is_called_so(place: Path) -> bool:
    return can_list(place) and not _GLOB.search(place.parts[1]) and place.exists()


def _inside(directory: Path) -> list[Path]:
    if (directory / DATASET_FILE).exists():  # what its index does not list does not exist
        return [directory / name for name in DatasetFiles(directory).names]
    tars = sorted((path for path in directory.glob("*.tar") if not path.name.startswith(".")), key=str)
    if not tars:
        raise DatasetError(f"{directory}: expected files ending in .tar, found none in it; {ABSENT}")
    return tars


def _balanced(pattern: str, opening: int) -> tuple[str, str]:
    depth = 0
    for place in range(opening, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[place], 0)
        if not depth:
            return pattern[opening + 1 : place], pattern[place + 1 :]
    raise DatasetError(f"{pattern}: expected a closing brace for each opening one, found none; add it")


def _alternatives(inside: str) -> Iterator[str]:
    if numbers := _NUMBERS.fullmatch(inside):
        yield from _numbers(numbers[1], numbers[2], int(numbers[3] or 1) or 1)
    elif letters := _LETTERS.fullmatch(inside):
        first, last = (ord(letter) for letter in letters.groups() if letter)
        yield from map(chr, _between(first, last, 1))
    elif len(parts := _split_at_commas(inside)) > 1:
        for part in parts:
            yield from expand_braces(part)
    else:
        for part in expand_braces(inside):
            yield "{" + part + "}"


def _numbers(first: str, last: str, step: int) -> Iterator[str]:
    padded = any(re.match(r"-?0.", number) for number in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return (f"{number:0{width}d}" for number in _between(int(first), int(last), step))


def _between(first: int, last: int, step: int) -> range:
    return range(first, last + 1, step) if first <= last else range(first, last - 1, -step)


def _split_at_commas(inside: str) -> list[str]:
    parts, depth = [""], 0
    for character in inside:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts
