"""Pictures from disk to uint8 batches, made by threads; what cannot be read comes back as a value."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from clipkit.cpus import available_cpus
from clipkit.errors import ClipkitError
from clipkit.evaluate.pictures import Pictures
from clipkit.evaluate.ranks import ALONE, Ranks, own_batches
from clipkit.pictures import Pixels
from clipkit.threads import finished_before_the_end, mapped_in_threads, not_waited_for

Digest: TypeAlias = npt.NDArray[np.uint8]
EvalPicture: TypeAlias = Callable[[bytes], Pixels]
Made = TypeVar("Made")

SHA256_BYTES = 32

_MOST_WORKERS = 16
_AHEAD = 2  # batches for each thread, the one that it makes included


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
    once, decoded or as `Unreadable`. `workers` are those of `made_batches`.
    """

    def make(places: range) -> DecodedBatch:
        with not_waited_for():
            rows = [_decoded(pictures, transform, place) for place in places]
        return _collated(rows)

    return made_batches(make, len(pictures.names), batch_size=batch_size, workers=workers, ranks=ranks)


def made_batches(
    make: Callable[[range], Made], items: int, *, batch_size: int, workers: int | None, ranks: Ranks
) -> Iterator[Made]:
    """Yield what `make` makes of the places of each batch of `items` that is this process's share, in order.

    It is called in `workers` threads, since decoders of pictures let others run meanwhile; 0: in this one.
    None: one a CPU that this process may use, of which it has its share if torchrun started several on this
    machine. Raises what `make` raises.
    """
    own = own_batches(items, batch_size, ranks)
    threads = _default_workers() if workers is None else workers
    return mapped_in_threads(make, own, threads, ahead=_AHEAD) if threads else map(make, own)


@dataclass(frozen=True)
class _Decoded:
    index: int
    pixels: Pixels
    sha256: Digest


def _decoded(pictures: Pictures, transform: EvalPicture, index: int) -> _Decoded | Unreadable:
    sha256: Digest = np.zeros(SHA256_BYTES, np.uint8)
    try:
        content = pictures.read(index)
        sha256 = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
        with finished_before_the_end():
            return _Decoded(index, transform(content), sha256)
    except (OSError, ClipkitError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        return Unreadable(index, pictures.place(index), reason, sha256)


def _collated(rows: list[_Decoded | Unreadable]) -> DecodedBatch:
    unreadable = tuple(row for row in rows if isinstance(row, Unreadable))
    decoded = [row for row in rows if isinstance(row, _Decoded)]
    images = np.stack([row.pixels for row in decoded]) if decoded else np.empty((0, 3, 0, 0), np.uint8)
    digests = np.stack([row.sha256 for row in decoded]) if decoded else np.empty((0, SHA256_BYTES), np.uint8)
    return DecodedBatch(
        images_BCHW=torch.from_numpy(images),
        indices_B=torch.tensor([row.index for row in decoded], dtype=torch.int64),
        sha256_B=torch.from_numpy(digests),
        unreadable=unreadable,
    )


def _default_workers() -> int:
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(_MOST_WORKERS, available_cpus() // processes))
