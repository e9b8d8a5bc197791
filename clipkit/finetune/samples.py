"""The pictures to learn from as the trainer's stream reads them, and those of them that are held out."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from clipkit.errors import ClipkitError
from clipkit.evaluate.images import LabelledImages
from clipkit.shards.format import SHARD_SAMPLES
from clipkit.shards.shard_files import Int64s, SampleError
from clipkit.shards.shard_set import Sample


class LabelledSet:
    """Labelled pictures as a SampleSet, whose captions are their labels in digits: see `labels_of`.

    A thousand pictures are a shard. `fingerprint` is that of the labels and the paths below the folder; the
    pictures are not read for it.
    """

    is_remote = False

    def __init__(self, images: LabelledImages):
        self.source = str(images.root)
        self._images = images
        firsts = np.arange(0, len(images), SHARD_SAMPLES, dtype=np.int64)
        self.sizes: Int64s = np.minimum(SHARD_SAMPLES, len(images) - firsts)
        self.fingerprint = hashlib.sha256(b"".join(_lines(images))).hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def read(self, shard: int, row: int) -> Sample:
        """Return the picture at `row` (0-based) of shard number `shard`. Raises SampleError."""
        place = SHARD_SAMPLES * shard + row
        try:
            image = self._images.pictures.read(place)
        except (OSError, ClipkitError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            raise SampleError(f"it cannot be read: {reason}") from None
        return Sample(self.key(shard, row), image, str(self._images.labels[place]))

    def key(self, shard: int, row: int) -> str:
        """Return the picture's path below the folder."""
        return self._images.pictures.names[SHARD_SAMPLES * shard + row]

    def place(self, shard: int) -> str:
        """Return where the folder lies, for messages."""
        return self.source

    def short_sides(self, shard: int) -> None:
        """A folder does not tell."""
        return

    def prepare(self, shards: Iterable[int]) -> None:
        """Do nothing: all is here."""


def labels_of(captions: list[str]) -> npt.NDArray[np.int64]:
    """Return the labels that stand for captions in a LabelledSet, int64 (B, 1): the stream's tokens."""
    return np.array(captions, np.int64)[:, None]


def held_out(images: LabelledImages, share: float) -> tuple[LabelledImages, LabelledImages]:
    """Return the pictures to train on, and those held out: `share` of each class, at least one of two.

    Which ones follows from the paths below the folder alone: the same for every seed, and a larger share
    holds a smaller one. A class of one picture is trained on and not measured.
    """
    of_class: dict[int, list[tuple[bytes, int]]] = defaultdict(list)
    for place, line in enumerate(_lines(images)):
        of_class[images.labels[place]].append((hashlib.sha256(line).digest(), place))
    out = set()
    for drawn in of_class.values():
        count = min(max(1, round(share * len(drawn))), len(drawn) - 1)
        out |= {place for _, place in sorted(drawn)[:count]}
    kept = [place for place in range(len(images)) if place not in out]
    return images.chosen(kept), images.chosen(sorted(out))


def _lines(images: LabelledImages) -> Iterable[bytes]:
    for name, label in zip(images.pictures.names, images.labels, strict=True):
        yield os.fsencode(f"{label}\t{name}\n")
