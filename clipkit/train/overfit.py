"""`--overfit N`: a run over N fixed samples, to be learned by heart: proof that the set-up can learn."""

import math
from collections import Counter
from collections.abc import Callable, Generator

from clipkit.shards.bad_samples import BadCount
from clipkit.shards.decoded import Transform
from clipkit.shards.loader import Batch, Tokenize, batches
from clipkit.shards.mixture import Mixture
from clipkit.shards.sample_set import SampleSet
from clipkit.train.config import TrainConfig
from clipkit.train.distributed import World

_ABOUT_ZERO = 0.1


def fixed_samples(
    shards: SampleSet | Mixture,
    config: TrainConfig,
    count: int,
    transform: Transform,
    tokenize: Tokenize,
    say: Callable[[str], object],
) -> Batch:
    """Return the first `count` samples of the run's order, each with the crop that it has there.

    `say` is told of each that cannot be read. Raises DatasetError if they are more than `max_bad` allows.
    """
    made = batches(
        shards,
        batch_size=count,
        workers=min(config.workers, 1),
        seed=config.seed,
        streams=config.streams,
        stop=count,
        transform=transform,
        tokenize=tokenize,
        told=BadCount(config.max_bad, say).add,
    )
    (samples,) = ([each.clone() for each in batch] for batch in made)
    return Batch(*samples)


def repeated(samples: Batch, batch_size: int, first_step: int, steps: int, world: World) -> Generator[Batch]:
    """Yield this process's share of batches `first_step` … `steps` − 1: the samples in a circle, as they are.

    Batch k is the samples kB … kB+B−1, modulo their number.
    """
    share = batch_size // world.size
    for step in range(first_step, steps):
        start = step * batch_size + world.rank * share
        rows = [(start + row) % len(samples.positions_B) for row in range(share)]
        yield Batch(samples.images_BCHW[rows], samples.tokens_BL[rows], samples.positions_B[rows])


def described(samples: Batch) -> str:
    """Return in a line what is to be learned, and how low the loss can go.

    A caption that stands there m times leaves each of its pictures a choice among m: ln m at best, where they
    come in one batch.
    """
    counts = Counter(row.tobytes() for row in samples.tokens_BL.numpy())
    lowest = sum(m * math.log(m) for m in counts.values()) / len(samples.tokens_BL)
    line = f"overfit: {len(samples.tokens_BL):,} fixed samples, nothing is evaluated"
    if lowest == 0:
        return line
    return f"{line}; they have {len(counts):,} different captions, so the loss stays above about {lowest:.2g}"


def verdict(count: int, loss: float) -> str:
    """Return in a line whether the run learned its `count` samples by heart, and what that means."""
    if loss < _ABOUT_ZERO:
        return (
            f"the loss went to {loss:.3g}, about zero: the {count:,} samples are learned by heart. Data, "
            "model, loss and optimizer work together; whether it learns more than these is another question"
        )
    return (
        f"the loss is {loss:.3g}, not about zero: the {count:,} samples are not learned by heart. Try more "
        "--epochs or another --lr; if it stays so, something is wrong: captions that are the same, pictures "
        "without content, or a setting"
    )
