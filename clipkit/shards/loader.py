"""The one torch file here: batches of a data set in the canonical order, made by worker processes."""

import gc
import math
import os
import statistics
import time
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from operator import index
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from clipkit.errors import ClipkitError, DatasetError
from clipkit.pictures import Pixels
from clipkit.processes import allow_files, begin_fork_server, end_with_parent, keep_freed_memory
from clipkit.shards.bad_samples import BadCount, BadSample
from clipkit.shards.decoded import DecodedSamples, Transform
from clipkit.shards.loader_processes import check_sharing, forks, only_here, sharing, watched
from clipkit.shards.mixture import Mixture, MixturePlan, Place
from clipkit.shards.plan import BLOCK, STREAMS
from clipkit.shards.sample_set import SampleSet

_AHEAD = 2  # batches that each worker makes ahead
_KEPT = _AHEAD + 2  # batches of memory; one is being made, one trained on
_FILES = 1 << 14  # a worker's batch is three, as long as it is held
_KEPT_BYTES = 200_000_000  # by each worker, of batches' memory
_FREE, _IN_USE, _LOST = range(3)  # a batch's memory; lost: to a process forked meanwhile, which may read it

# B batch, C channels, H height, W width, L tokens of a caption


class Batch(NamedTuple):
    """One rank's share of a global batch."""

    images_BCHW: torch.Tensor
    """uint8, not yet normalised"""
    tokens_BL: torch.Tensor
    """int64"""
    positions_B: torch.Tensor
    """int64, the samples' places in the canonical order of their dataset"""


Tokenize = Callable[[list[str]], np.ndarray[Any, np.dtype[np.int64]]]


def batches(
    shards: SampleSet | Mixture,
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
    told: Callable[[Sequence[BadSample], int], None] | None = None,
    streams: int = STREAMS,
    block: int = BLOCK,
) -> Generator[Batch]:
    """Yield this rank's share of the global batches from `position` on, while they end at or before `stop`.

    `batch_size` counts all ranks' samples; positions run across epochs, endlessly without `stop`. Batch k is
    the same for any `world_size` and number of `workers` (0: made in this process). `transform` and
    `tokenize` must be picklable.

    A sample that cannot be read is replaced by another, the same for any ranks and workers. `told` is given
    those of each batch, and how many samples this rank has got up to its end; by default it is
    `BadCount().add`, which names them to the logger "clipkit.shards" and raises DatasetError when they are
    too many. Raises DatasetError too if a shard is damaged as a whole or a worker dies; ConfigError if a
    mixture does not fit the batch size; ValueError if `world_size` does not divide `batch_size` or that
    `position`, or `rank` is none of 0 … `world_size` − 1; TypeError if `transform` or `tokenize` returns
    something else than arrays of its kind.
    """
    # NumPy's integers would overflow.
    batch_size, seed, position = map(index, (batch_size, seed, position))
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} must be one of 0 … {world_size - 1}")
    if batch_size < 1 or batch_size % world_size or position < 0 or position % batch_size:
        raise ValueError(
            f"batch size {batch_size} must be a multiple of {world_size} ranks and divide position {position}"
        )
    mixture = shards if isinstance(shards, Mixture) else Mixture([shards])
    plan = MixturePlan(
        [each.sizes for each in mixture.sets], mixture.shares, batch_size, seed, streams, block
    )
    share = batch_size // world_size
    own = slice(rank * share, (rank + 1) * share)
    made = _Batches(mixture.sets, plan, own, transform, tokenize)
    numbers = range(position // batch_size, stop // batch_size if stop is not None else 1 << 62)
    if workers:
        prepare_workers(transform, tokenize)
    told = told or BadCount().add
    for number, each in enumerate(_made(made, numbers, workers), 1):
        if isinstance(each, ClipkitError):
            raise each
        told(each.bad, number * share)
        yield _leased(each.batch) if workers else each.batch


def prepare_workers(*needed: object) -> None:
    """Begin the server that workers are forked from: it imports torch and our modules of what is `needed`.

    That takes seconds, in which the caller can do something else. A module of the caller's own is imported by
    each worker: it may expect the program's arguments, which the server does not have, and end it.
    """
    modules = [getattr(each, "__module__", type(each).__module__) for each in needed]
    begin_fork_server([__name__, *(name for name in modules if name.startswith("clipkit."))])


def _made(made: "_Batches", numbers: range, workers: int) -> Iterator[Any]:
    if not workers:
        return (made[number] for number in numbers)

    def begin() -> Iterator[Any]:
        check_sharing(DatasetError, workers)
        allow_files(_FILES)
        with warnings.catch_warnings(), torch.device("cpu"):  # whatever the program's default is
            warnings.filterwarnings("ignore", message="This DataLoader will create")  # the user chose them
            loader = DataLoader(
                made,
                batch_size=None,
                sampler=numbers,
                num_workers=workers,
                collate_fn=_as_it_is,
                worker_init_fn=partial(_begin_worker, dict(os.environ)),
                multiprocessing_context="forkserver",
                prefetch_factor=_AHEAD,
                generator=torch.Generator(),  # without one it draws from the program's
            )
            return iter(loader)

    return watched(begin, DatasetError, "a loader process")


class Collator:
    """Puts samples into a batch one after the other; its memory is a batch's from the first one on."""

    def __init__(self, size: int, tokenize: Tokenize, buffers: "_Buffers | None" = None):
        self._size = size
        self._tokenize = tokenize
        self._buffers = buffers
        self._captions: list[str] = []
        self._shape: tuple[int, ...] = ()

    def add(self, pixels: Pixels, caption: str) -> None:
        """Add a sample. Raises TypeError for pixels that are not uint8 (3, H, W), the same for all."""
        pixels = np.asarray(pixels)
        self._shape = self._shape or (3, *pixels.shape[-2:])
        if pixels.dtype != np.uint8 or pixels.shape != self._shape:
            raise TypeError(
                "expected a transform's pixels to be uint8 of shape (3, H, W), all of one size, found "
                f"{pixels.dtype} of shape {pixels.shape}"
            )
        if not self._captions:
            shape = (self._size, *self._shape)
            empty = (
                self._buffers.take(math.prod(shape))[:-1]
                if self._buffers
                else torch.from_numpy(np.empty(shape, np.uint8))  # torch has no error for "no memory" alone
            )
            self._images_BCHW = empty.view(shape)
            self._images = self._images_BCHW.numpy()
        self._images[len(self._captions)] = pixels
        self._captions.append(caption)

    def batch(self, positions: list[int]) -> Batch:
        """Return the batch of the samples added, at least one, with their positions.

        Raises TypeError for tokens that are no integers, or not one row for each caption.
        """
        tokens = np.asarray(self._tokenize(self._captions))
        if tokens.dtype.kind not in "iu" or tokens.ndim != 2 or len(tokens) != len(self._captions):
            raise TypeError(
                f"expected tokens of {len(self._captions)} captions to be as many rows of int64, found "
                f"{tokens.dtype} of shape {tokens.shape}"
            )
        tokens_BL = torch.from_numpy(tokens.astype(np.int64, copy=False))
        images_BCHW = self._images_BCHW[: len(self._captions)]
        batch = Batch(images_BCHW, tokens_BL, torch.from_numpy(np.array(positions, np.int64)))
        if self._buffers:
            with sharing(DatasetError):  # later, where the batch is handed over, it would be lost in silence
                for each in batch:
                    each.share_memory_()  # type: ignore[no-untyped-call]
        return batch


class _Made(NamedTuple):
    batch: Batch
    bad: list[BadSample]


class _Batches(Dataset[_Made | ClipkitError]):
    def __init__(
        self,
        sets: Sequence[SampleSet],
        plan: MixturePlan,
        share: slice,
        transform: Transform,
        tokenize: Tokenize,
    ):
        self._sets = sets
        self._plan = plan
        self._share = share
        self._samples = DecodedSamples(sets, plan, transform)
        self._tokenize = tokenize
        self._buffers: _Buffers | None = None  # in workers alone

    def __getitem__(self, batch: int) -> _Made | ClipkitError:
        # An error is handed over as a value: DataLoader would wrap it in a traceback as text.
        try:
            return self._make(self._plan.places(batch, self._share))
        except ClipkitError as error:
            return error
        except MemoryError:
            return DatasetError(
                "expected memory for a batch, found none left: make memory free, or give fewer --workers or "
                "a smaller --batch-size"
            )

    def _make(self, places: list[Place]) -> _Made:
        self._plan.prepare(self._sets, places)
        if self._buffers is None and get_worker_info() is not None:
            self._buffers = _Buffers()
        collator = Collator(len(places), self._tokenize, self._buffers)
        bad: list[BadSample] = []
        for place in places:
            collator.add(*self._samples.read(place, bad))
        return _Made(collator.batch([place.position for place in places]), bad)


class _Buffers:
    """Memory of batches that a worker shares with its parent, used again once that has let go of it.

    New pages would cost a fifth of a sample's time. A buffer's last byte tells what it is.
    """

    def __init__(self) -> None:
        self._kept: list[torch.Tensor] = []

    def take(self, size: int) -> torch.Tensor:
        """Return memory of `size` bytes and the one that tells."""
        self._kept = [buffer for buffer in self._kept if buffer[-1] != _LOST]
        free = (buffer for buffer in self._kept if len(buffer) == size + 1 and buffer[-1] == _FREE)
        # All that may be needed are made first, so that a worker's memory does not grow later.
        growing = len(self._kept) < _KEPT and (len(self._kept) + 1) * size <= _KEPT_BYTES
        buffer = None if growing else next(free, None)
        if buffer is None:
            with sharing(DatasetError):
                storage = torch.UntypedStorage._new_shared(size + 1)  # type: ignore[no-untyped-call]
            buffer = torch.empty(0, dtype=torch.uint8).set_(storage)
            if growing:
                self._kept.append(buffer)
        buffer[-1] = _IN_USE
        return buffer


def _leased(batch: Batch) -> Batch:
    """The batch of a worker, as long as any tensor shares its memory; then the worker may use that again."""
    whole = torch.empty(0, dtype=torch.uint8, device="cpu").set_(batch.images_BCHW.untyped_storage()).numpy()
    pixels = whole[:-1].reshape(batch.images_BCHW.shape)
    weakref.finalize(pixels, only_here(_let_go), whole, forks()).atexit = False
    return batch._replace(images_BCHW=torch.from_numpy(pixels))


def _let_go(whole: Pixels, forks_before: int) -> None:
    whole[-1] = _FREE if forks() == forks_before else _LOST


def device_copy_seconds(batch: Batch, copies: int = 9) -> float | None:
    """Return how long a batch takes to the first GPU, as the median of several times; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    seconds = []
    for _ in range(copies):
        begun = time.perf_counter()
        for each in batch[:2]:
            each.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def _begin_worker(environment: dict[str, str], worker: int) -> None:
    gc.freeze()  # a collection would write to all that the fork server shares: 41 MB, some epochs later
    end_with_parent()
    os.environ.clear()  # it is the fork server's, as old as that: a store's keys may have come since
    os.environ.update(environment)
    keep_freed_memory()


def _as_it_is(made: Any) -> Any:
    return made
