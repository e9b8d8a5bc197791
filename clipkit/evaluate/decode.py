"""Pictures from disk to uint8 batches, in worker processes; what cannot be read comes back as a value."""

import hashlib
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from clipkit.cpus import available_cpus
from clipkit.errors import ClipkitError, EvaluationError
from clipkit.evaluate.pictures import Pictures
from clipkit.evaluate.ranks import ALONE, Ranks, own_batches
from clipkit.processes import end_with_parent, sharing, watched

Pixels: TypeAlias = npt.NDArray[np.uint8]
Digest: TypeAlias = npt.NDArray[np.uint8]
EvalPicture: TypeAlias = Callable[[bytes], Pixels]
Item = TypeVar("Item")
Made = TypeVar("Made")

SHA256_BYTES = 32

# Starting the first worker means importing torch, some seconds: below this many pictures that never pays.
_IN_PROCESS_IMAGES = 2_000
_MOST_WORKERS = 16


@dataclass(frozen=True)
class Unreadable:
    """A picture that could not be read or decoded: its number, where it lies, and why, in one line.

    `sha256` is that of its bytes, zeros where these could not be read.
    """

    index: int
    place: str
    reason: str
    sha256: Digest


@dataclass(frozen=True)
class DecodedBatch:
    """Pictures of one batch: `images_BCHW` uint8, `indices_B` their places in the list, and what failed.

    `sha256_B` is the SHA-256 of each picture's bytes: uint8 of shape (B, 32).
    """

    images_BCHW: torch.Tensor
    indices_B: torch.Tensor
    sha256_B: torch.Tensor
    unreadable: tuple[Unreadable, ...]

    @property
    def end(self) -> int:
        """The place behind the batch's last picture in the list."""
        places: list[int] = self.indices_B.tolist()
        return 1 + max(places + [row.index for row in self.unreadable])


def decoded_batches(
    pictures: Pictures,
    transform: EvalPicture,
    *,
    batch_size: int,
    workers: int | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[DecodedBatch]:
    """Decode `pictures` in their order, `batch_size` at a time, this process's share of the batches.

    `transform` makes uint8 (3, H, W) of a picture's bytes, or raises a ClipkitError. Every one comes back
    once, decoded or as `Unreadable`. `workers` and errors are those of `loaded`.
    """
    items = _Pictures(pictures, transform)
    return loaded(items, _collate, batch_size=batch_size, workers=workers, ranks=ranks)


def loaded(
    items: "Dataset[Item]",
    collate: Callable[[list[Item]], Made | ClipkitError],
    *,
    batch_size: int,
    workers: int | None,
    ranks: Ranks,
) -> Iterator[Made]:
    """Yield what `collate` makes of each batch of `items` that is this process's share, in their order.

    `workers` None chooses: this process for few items, else one worker a CPU that this process may use, of
    which it has its share if torchrun started several on this machine. The global random state is left as it
    is. Raises EvaluationError if a worker dies, and an error that `collate` returns.
    """
    own = own_batches(len(items), batch_size, ranks)  # type: ignore[arg-type]
    count = _default_workers(sum(map(len, own))) if workers is None else workers
    multiprocessing.set_forkserver_preload([f"{__package__}.preload"])  # torch is imported once

    def begin() -> Iterator[Made | ClipkitError]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This DataLoader will create")  # the user chose them
            loader: DataLoader[Any] = DataLoader(
                items,
                batch_sampler=own,  # type: ignore[arg-type]
                num_workers=count,
                collate_fn=collate,
                worker_init_fn=_begin_worker,
                # Forking this process, which has threads and perhaps CUDA open, would not be safe.
                multiprocessing_context="forkserver" if count else None,
                generator=torch.Generator(),
            )
            return iter(loader)

    for each in watched(begin, EvaluationError, "a process that decodes pictures") if count else begin():
        if isinstance(each, ClipkitError):
            raise each
        yield each


def stacked(pixels: Sequence[Pixels]) -> torch.Tensor | EvaluationError:
    """Lay pictures of one size one behind the other; in a worker, at once in memory that processes share."""
    images_BCHW = torch.empty((len(pixels), *pixels[0].shape), dtype=torch.uint8)
    error = shared((images_BCHW,))
    if error is None:
        np.stack(pixels, out=images_BCHW.numpy())
    return error or images_BCHW


def shared(tensors: Sequence[torch.Tensor]) -> EvaluationError | None:
    """In a worker, move tensors to memory that processes share; return why if there is no room for them."""
    if get_worker_info() is None:
        return None
    try:
        with sharing(EvaluationError):  # later, where the batch is handed over, it would be lost in silence
            for each in tensors:
                each.share_memory_()  # type: ignore[no-untyped-call]
    except EvaluationError as error:  # DataLoader would wrap it in a traceback as text
        return error
    return None


@dataclass(frozen=True)
class _Decoded:
    index: int
    pixels: Pixels
    sha256: Digest


class _Pictures(Dataset[_Decoded | Unreadable]):
    def __init__(self, pictures: Pictures, transform: EvalPicture) -> None:
        self.pictures = pictures
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pictures.names)

    def __getitem__(self, index: int) -> _Decoded | Unreadable:
        sha256: Digest = np.zeros(SHA256_BYTES, np.uint8)
        try:
            content = self.pictures.read(index)
            sha256 = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
            return _Decoded(index, self.transform(content), sha256)
        except (OSError, ClipkitError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            return Unreadable(index, self.pictures.place(index), reason, sha256)


def _collate(rows: list[_Decoded | Unreadable]) -> DecodedBatch | EvaluationError:
    unreadable = tuple(row for row in rows if isinstance(row, Unreadable))
    decoded = [row for row in rows if isinstance(row, _Decoded)]
    nothing = torch.empty((0, 3, 0, 0), dtype=torch.uint8)
    images = stacked([row.pixels for row in decoded]) if decoded else nothing
    if isinstance(images, EvaluationError):
        return images
    digests = np.stack([row.sha256 for row in decoded]) if decoded else np.empty((0, SHA256_BYTES), np.uint8)
    batch = DecodedBatch(
        images_BCHW=images,
        indices_B=torch.tensor([row.index for row in decoded], dtype=torch.int64),
        sha256_B=torch.from_numpy(digests),
        unreadable=unreadable,
    )
    return shared((batch.indices_B, batch.sha256_B)) or batch


def _begin_worker(worker: int) -> None:
    end_with_parent()


def _default_workers(images: int) -> int:
    if images <= _IN_PROCESS_IMAGES:
        return 0
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(_MOST_WORKERS, available_cpus() // processes))
