"""`--overfit N`: a run over N fixed samples, to learn by heart. It proves that the set-up can learn at all."""

import math
from collections.abc import Generator

from clipkit.shards.loader import Batch
from clipkit.train.distributed import World

PASSES = 300
"""Over the samples, if nothing says how many."""
_ABOUT_ZERO = 0.1


def repeated(samples: Batch, batch_size: int, first_step: int, steps: int, world: World) -> Generator[Batch]:
    """Yield this process's share of batches `first_step` … `steps` − 1: the samples in a circle, all crops fixed.

    Batch k is the samples kB … kB+B−1, modulo their number.
    """
    share = batch_size // world.size
    for step in range(first_step, steps):
        start = step * batch_size + world.rank * share
        rows = [(start + row) % len(samples.positions_B) for row in range(share)]
        yield Batch(samples.images_BCHW[rows], samples.tokens_BL[rows], samples.positions_B[rows])


def lowest_loss(samples: Batch) -> float:
    """Return the lowest loss of one batch of all samples: more than 0 where captions are the same.

    A caption that stands there m times leaves each of its pictures a choice among m: ln m.
    """
    counts: dict[bytes, int] = {}
    for row in samples.tokens_BL.numpy():
        counts[row.tobytes()] = counts.get(row.tobytes(), 0) + 1
    return sum(m * math.log(m) for m in counts.values()) / len(samples.tokens_BL)


def verdict(count: int, loss: float) -> str:
    """Return in a line whether the run learned its `count` samples by heart, and what that means."""
    if loss < _ABOUT_ZERO:
        return (
            f"overfit: the loss went to {loss:.3g}, about zero: the {count:,} samples are learned by heart. Data, "
            "model, loss and optimizer work together; that it learns what it has not seen is not shown by this"
        )
    return (
        f"overfit: the loss is {loss:.3g}, not about zero: the {count:,} samples are not learned by heart. Try more "
        "--epochs, or another --lr; if it stays, something is wrong: captions that are the same, pictures "
        "without content, or the settings"
    )
