"""The one torch file here: batches of a ShardSet in the canonical order, made by worker processes."""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from clipkit.errors import ClipkitError, DatasetError
from clipkit.processes import deaf_to_interrupts, end_with_parent, keep_freed_memory, watched
from clipkit.shards.plan import BLOCK, STREAMS, Int64s, ShardPlan, draw_key
from clipkit.shards.shard_set import ShardSet

# B batch, C channels, H height, W width, L tokens of a caption


class Batch(NamedTuple):
    """One rank's share of a global batch."""

    images_BCHW: torch.Tensor
    """uint8, not yet normalised"""
    tokens_BL: torch.Tensor
    """int64"""
    positions_B: torch.Tensor
    """int64, the samples' places in the canonical order"""


class Transform(Protocol):
    """Decodes and crops a picture; all randomness comes from `key`. Returns uint8 of shape (3, H, W)."""

    def __call__(self, image: bytes, key: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the picture's pixels."""


Tokenize = Callable[[list[str]], np.ndarray[Any, np.dtype[np.int64]]]


def batches(
    shard_set: ShardSet,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    seed: int = 0,
    position: int = 0,
    stop: int | None = None,
    transform: Transform,
    tokenize: Tokenize,
    streams: int = STREAMS,
    block: int = BLOCK,
) -> Iterator[Batch]:
    """Yield this rank's share of the global batches from `position` on, while they end at or before `stop`.

    `batch_size` counts all ranks' samples; positions run across epochs, endlessly without `stop`. Batch k is
    the same for any `world_size` and number of `workers` (0: made in this process). `transform` and
    `tokenize` must be picklable. Raises ValueError if `world_size` does not divide `batch_size` or that
    `position`, and DatasetError naming shard and key for a sample that cannot be read, or if a worker dies.
    """
    if batch_size % world_size or position % batch_size:
        raise ValueError(
            f"batch size {batch_size} must be a multiple of {world_size} ranks and divide position {position}"
        )
    plan = ShardPlan(shard_set.sizes, seed, streams, block)
    made = _Batches(shard_set, plan, batch_size, rank, world_size, transform, tokenize)
    last = stop // batch_size if stop is not None else 1 << 62
    with warnings.catch_warnings(), deaf_to_interrupts():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # the user chose the number
        loader = DataLoader(
            made,
            batch_size=None,
            sampler=range(position // batch_size, last),
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_begin_worker,
            multiprocessing_context="forkserver" if workers else None,
            prefetch_factor=4 if workers else None,
        )
        made_batches = iter(loader)
    yield from _checked(watched(made_batches, DatasetError, "a loader process") if workers else made_batches)


class _Batches(Dataset[Batch | ClipkitError]):
    def __init__(
        self,
        shard_set: ShardSet,
        plan: ShardPlan,
        batch_size: int,
        rank: int,
        world_size: int,
        transform: Transform,
        tokenize: Tokenize,
    ):
        self._shard_set = shard_set
        self._plan = plan
        self._batch_size = batch_size
        share = batch_size // world_size
        self._share = slice(rank * share, (rank + 1) * share)
        self._transform = transform
        self._tokenize = tokenize

    def __getitem__(self, batch: int) -> Batch | ClipkitError:
        # An error is handed over as a value: DataLoader would wrap it in a traceback as text.
        try:
            return self._make(batch)
        except ClipkitError as error:
            return error

    def _make(self, batch: int) -> Batch:
        positions = self._plan.batch_positions(batch, self._batch_size)[self._share]
        shards, rows = self._plan.locate(positions)
        self._prepare(positions, shards)
        images = np.empty(0, np.uint8)
        captions: list[str] = []
        places = zip(positions.tolist(), shards.tolist(), rows.tolist(), strict=True)
        for place, (position, shard, row) in enumerate(places):
            sample = self._shard_set.read(shard, row)
            pixels = self._pixels(sample.image, position, shard, sample.key)
            if not captions:
                images_BCHW = _shareable((len(positions), *pixels.shape))
                images = images_BCHW.numpy()
            images[place] = pixels
            captions.append(sample.caption)
        return Batch(images_BCHW, torch.from_numpy(self._tokenize(captions)), torch.from_numpy(positions))

    def _prepare(self, positions: Int64s, shards: Int64s) -> None:
        # All streams come to their next blocks at about the same time: a block ahead there is time to copy.
        if self._shard_set.is_remote:
            ahead, _ = self._plan.locate(positions + self._plan.streams * self._plan.block)
            self._shard_set.prepare([*np.unique(shards).tolist(), *np.unique(ahead).tolist()])

    def _pixels(
        self, image: bytes, position: int, shard: int, key: str
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        try:
            return self._transform(image, draw_key(self._plan.seed, position))
        except Exception as error:  # a decoder's errors are of many kinds; each means a damaged picture
            line = str(error).partition("\n")[0] or type(error).__name__
            raise DatasetError(
                f"{self._shard_set.place(shard)}: the picture of sample {key} cannot be decoded: {line}"
            ) from error


def _shareable(shape: tuple[int, ...]) -> torch.Tensor:
    # A worker's batch is made where its parent can read it, as torch's own collating has it: no copy is made.
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def _begin_worker(worker: int) -> None:
    end_with_parent()
    keep_freed_memory()


def _as_it_is(made: Any) -> Any:
    return made


def _checked(made: Iterator[Batch | ClipkitError]) -> Iterator[Batch]:
    for batch in made:
        if isinstance(batch, ClipkitError):
            raise batch
        yield batch
