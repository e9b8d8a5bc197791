"""A warning for pictures that are smaller than the model's input: training enlarges them in silence."""

from collections.abc import Iterator

import numpy as np

from clipkit.errors import DatasetError
from clipkit.locations import each_of
from clipkit.model.config import ClipConfig
from clipkit.model.pictures import opened
from clipkit.shards.mixture import Mixture
from clipkit.shards.sample_set import SampleSet
from clipkit.shards.shard_files import SampleError

_SHARDS_LOOKED_AT = 16
_PICTURES_LOOKED_AT = 64  # where no manifest tells


def small_pictures(shards: SampleSet | Mixture, model: ClipConfig) -> Iterator[str]:
    """Yield a line for each of the data sets of which more than half are smaller than the model's input.

    The manifests of some shards tell, or else the headers of some pictures, if these lie on this machine.
    Raises DatasetError if a manifest or a shard is damaged.
    """
    for each in shards.sets if isinstance(shards, Mixture) else (shards,):
        sides = _short_sides(each)
        if not len(sides) or np.median(sides) >= model.image_size:
            continue
        yield (
            f"{each.source}: {np.mean(sides < model.image_size):.0%} of {len(sides):,} pictures looked at "
            f"are smaller than the {model.image_size} pixels that {model.name} takes (their short side is "
            f"{np.median(sides):.0f} at the median) and will be enlarged, which adds no detail: ingest them "
            f"again with --image-size {model.image_size} or more, if the originals are larger"
        )


def _short_sides(samples: SampleSet) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    shards = _spread(len(samples.sizes), _SHARDS_LOOKED_AT)
    sides = each_of(samples.short_sides, shards, remote=samples.is_remote)
    told = [each for each in sides if each is not None]
    if told or samples.is_remote:
        return np.concatenate([np.empty(0, np.int64), *told])
    ends = np.cumsum(samples.sizes)
    found = []
    for place in _spread(len(samples), _PICTURES_LOOKED_AT):
        shard = int(np.searchsorted(ends, place, side="right"))
        try:
            image = samples.read(shard, place - int(ends[shard] - samples.sizes[shard])).image
        except SampleError:
            continue  # the stream names those
        try:
            with opened(image) as picture:
                found.append(min(picture.size))
        except DatasetError:
            continue
    return np.array(found, np.int64)


def _spread(count: int, most: int) -> list[int]:
    places: list[int] = np.unique(np.linspace(0, count - 1, most).astype(np.int64)).tolist()
    return places
