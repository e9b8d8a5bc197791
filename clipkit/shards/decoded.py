"""Samples as a stream hands them on: decoded, and another in place of one that cannot be read."""

from collections.abc import Sequence
from typing import Protocol

from clipkit.errors import DatasetError
from clipkit.pictures import Pixels
from clipkit.shards.bad_samples import REMEDY, BadSample
from clipkit.shards.mixture import MixturePlan, Place
from clipkit.shards.sample_set import SampleSet
from clipkit.shards.shard_files import SampleError

_SUBSTITUTES = 20


class Transform(Protocol):
    """Decodes and crops a picture; all randomness comes from `key`. Returns uint8 of shape (3, H, W)."""

    def __call__(self, image: bytes, key: int) -> Pixels:
        """Return the picture's pixels."""


class DecodedSamples:
    """The samples of `sets` by their places in `plan`: pixels as `transform` makes them, and captions."""

    def __init__(self, sets: Sequence[SampleSet], plan: MixturePlan, transform: Transform):
        self._sets = sets
        self._plan = plan
        self._transform = transform

    def read(self, place: Place, bad: list[BadSample]) -> tuple[Pixels, str]:
        """Return the sample at this place, or the one in its place if it cannot be read, noted in `bad`.

        Raises DatasetError if none of many others can be read either, or a shard is damaged as a whole.
        """
        tried = place
        for number in range(_SUBSTITUTES):
            try:
                return self._sample(tried)
            except SampleError as error:
                if not number:
                    bad.append(self._named(place, str(error)))
            tried = self._plan.substitute(place, number)
        raise DatasetError(f"{bad[-1]}; nor can any of {_SUBSTITUTES - 1} others; {REMEDY}")

    def _sample(self, place: Place) -> tuple[Pixels, str]:
        sample = self._sets[place.dataset].read(place.shard, place.row)
        try:
            return self._transform(sample.image, place.key), sample.caption
        except MemoryError:
            raise
        except Exception as error:  # a decoder's errors are of many kinds; each means a damaged picture
            line = str(error).partition("\n")[0] or type(error).__name__
            raise SampleError(f"its picture cannot be decoded: {line}") from error

    def _named(self, place: Place, reason: str) -> BadSample:
        shard_set = self._sets[place.dataset]
        return BadSample(shard_set.place(place.shard), shard_set.key(place.shard, place.row), reason)
