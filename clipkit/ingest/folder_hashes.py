"""The pictures of any folder, hashed as if they had been ingested: to be compared with those of a dataset."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from clipkit.cpus import available_cpus
from clipkit.errors import SourceError
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.images import Picture, process
from clipkit.ingest.local_files import read_file
from clipkit.ingest.rows import Failed
from clipkit.locations import decoded, is_remote
from clipkit.progress import Progress
from clipkit.shards.dataset import DatasetDescription
from clipkit.shards.resemblance import Pictures

_AT_ONCE = 512
_NAMED = 3


def hash_folder(folder: Path, like: DatasetDescription, display: Progress) -> Pictures:
    """Hash all pictures in a folder and those below it, resized as the dataset `like` has it.

    Files that are no pictures are passed over; pictures that cannot be decoded are named on the display.
    Raises SourceError if there is no such folder or no picture in it, or one in it cannot be read.
    """
    if is_remote(folder) or not folder.is_dir():
        raise SourceError(
            f"{folder}: expected a dataset or a folder of pictures, found neither on this machine"
        )
    config = IngestConfig(image_size=int(like.image.get("image_size") or 256), keep_original=True)
    names: list[str] = []
    made: list[Picture] = []
    broken: list[str] = []
    done = 0
    with ThreadPoolExecutor(available_cpus()) as pool:
        files = _files(folder)
        while some := list(islice(files, _AT_ONCE)):
            for path, picture in zip(some, pool.map(lambda path: _hashed(path, config), some), strict=True):
                if isinstance(picture, Picture):
                    names.append(decoded(path.relative_to(folder).as_posix()))
                    made.append(picture)
                elif picture.reason != "not_an_image":
                    broken.append(f"{path.name} ({picture.reason})")
            done += len(some)
            display.update(done)
    if broken:
        more = f" and {len(broken) - _NAMED:,} more" if len(broken) > _NAMED else ""
        display.say(f"{folder}: not compared, cannot be read: {', '.join(broken[:_NAMED])}{more}")
    if not made:
        raise SourceError(
            f"{folder}: expected pictures in it or below, found none of {done:,} files to be one"
        )
    lines = "".join(f"{name}\t{each.sha256}\n" for name, each in zip(names, made, strict=True))
    words = np.frombuffer(bytes.fromhex("".join(each.sha256[:32] for each in made)), ">u8")
    return Pictures(
        source=decoded(folder.resolve().name),
        fingerprint=hashlib.sha256(lines.encode()).hexdigest(),
        sha256=words.astype(np.uint64).reshape(-1, 2),
        dhash=np.array([each.dhash for each in made], dtype=np.uint64),
        pixels=np.array([each.original_width * each.original_height for each in made], dtype=np.int64),
        name=names.__getitem__,
    )


def _files(folder: Path) -> Iterator[Path]:
    # Links to folders are followed, as evaluations do, but no folder is read twice: one may lead back.
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        found = Path(place).stat()
        if (found.st_dev, found.st_ino) in seen:
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))


def _raise(error: OSError) -> None:
    raise SourceError(
        f"{error.filename}: expected a folder that can be read, found: {error.strerror}; what is in it would "
        "not be compared"
    )


def _hashed(path: Path, config: IngestConfig) -> Picture | Failed:
    fetched = read_file("", str(path), config.max_bytes)
    if isinstance(fetched, Failed):
        return fetched
    picture = process(fetched.data, config)
    return picture if isinstance(picture, Failed) else replace(picture, content=b"")
