"""A dataset of web pictures as `clipkit ingest` leaves it: short side 256 pixels, JPEG at quality 95."""

import random
import shutil
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.images import Picture, process
from clipkit.model.tokenizer import END_OF_WORD, vocabulary
from clipkit.shards.dataset import (
    DATASET_FILE,
    DatasetDescription,
    Pass,
    SourceFile,
    Totals,
    open_for_writing,
)
from clipkit.shards.index import Index, read_index
from clipkit.shards.packing import Packer
from clipkit.shards.parts import PartWriter, make_parts_folder

SHARDS = 8
SHARD_SAMPLES = 1000
_ENDS = (".", "", "", "", "!", " - Wikipedia", " | Photo", " (2019)", "'s", "…", " &amp; more", " é")


def make_shards(folder: Path, pictures: Sequence[Path], shards: int = SHARDS, size: int = 256) -> Path:
    """Make the dataset in `folder`, or find it there; pictures repeat until it is full.

    Each of its `shards` has 1,000, whose short side is `size` pixels where the original has as many.
    """
    if folder.is_dir():
        return folder
    begun = folder.with_name(folder.name + ".begun")
    shutil.rmtree(begun, ignore_errors=True)
    stored = _stored(pictures, size)
    chance = random.Random(0)
    source = SourceFile(name="bench.tsv", bytes=0, sha256="0" * 64)
    samples = shards * SHARD_SAMPLES
    with open_for_writing(begun, DatasetDescription(sources=(source,), image={})) as dataset:
        dataset.begin(Pass(kind="list", records=samples))
        packer = Packer(begun)
        for chunk in range(shards):
            with PartWriter(make_parts_folder(begun, 0), chunk) as part:
                for row in range(chunk * SHARD_SAMPLES, (chunk + 1) * SHARD_SAMPLES):
                    made = stored[row % len(stored)]
                    known = {
                        "source": "bench.tsv",
                        "source_row": row,
                        "url": f"http://example.com/{row}",
                        "caption": _caption(chance),
                    }
                    part.success(known | _columns(made), made.content)
            packer.add(chunk)
        index = packer.finish(shards)
        dataset.finish(Totals(records=samples, samples=samples, failures=0, shards=len(index.shards)))
    begun.rename(folder)
    return folder


def make_many(folder: Path, shards: Path, count: int) -> Path:
    """Make a dataset of `count` shards in `folder` that are all the first one of `shards`, by hard links."""
    if folder.is_dir():
        return folder
    begun = folder.with_name(folder.name + ".begun")
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir()
    (entry, *_) = read_index(shards).shards
    entries = [entry._replace(name=f"{number:06d}.tar") for number in range(count)]
    for suffix in (".tar", ".parquet"):
        for each in entries:
            (begun / each.name).with_suffix(suffix).hardlink_to((shards / entry.name).with_suffix(suffix))
    Index(entries).write(begun)
    shutil.copy(shards / DATASET_FILE, begun)
    begun.rename(folder)
    return folder


def _stored(pictures: Sequence[Path], size: int) -> list[Picture]:
    config = IngestConfig(image_size=size)
    made = (process(path.read_bytes(), config) for path in pictures)
    return [each for each in made if isinstance(each, Picture)]


def _columns(made: Picture) -> dict[str, object]:
    names = (
        *("width", "height", "original_width", "original_height"),
        *("original_format", "original_bytes", "sha256", "dhash", "ext"),
    )
    return {name: getattr(made, name) for name in names}


def _caption(chance: random.Random) -> str:
    # Words as frequent as Zipf has them: OpenAI's merges are in the order of how often they were found.
    words, weights = _words()
    chosen = chance.choices(words, cum_weights=weights, k=max(2, round(chance.gauss(10, 4))))
    if chance.random() < 0.5:
        chosen.append(chance.choice(words) + chance.choice(words))  # rare ones are several tokens
    return " ".join(chosen).capitalize() + chance.choice(_ENDS)


def _words() -> tuple[list[str], list[float]]:
    if not _CACHE:
        ended = (token.removesuffix(END_OF_WORD) for token in vocabulary().ids if token.endswith(END_OF_WORD))
        words = [word for word in ended if word.isascii() and word.isalpha() and len(word) > 1]
        _CACHE.append((words, list(accumulate(1 / (rank + 10) for rank in range(len(words))))))
    return _CACHE[0]


_CACHE: list[tuple[list[str], list[float]]] = []
