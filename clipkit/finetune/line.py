"""The straight line between the zero-shot and the fine-tuned weights (Wortsman et al., section 3).

D embedding, N classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from torch import Tensor

from clipkit.evaluate.images import LabelledImages
from clipkit.evaluate.sets import Display
from clipkit.evaluate.zero_shot import ZeroShotResult, classify
from clipkit.model.clip import Clip


@dataclass(frozen=True)
class Weights:
    """All that a classification depends on: the image tower's weights by their names, and the head (D, N)."""

    visual: Mapping[str, Tensor]
    head_DN: Tensor

    @classmethod
    def of(cls, clip: Clip, head_DN: Tensor) -> "Weights":
        """Return copies of what is in the model now, and of its head."""
        visual = {name: value.detach().clone() for name, value in clip.visual.state_dict().items()}
        return cls(visual, head_DN.detach().clone())

    def put_into(self, clip: Clip) -> None:
        """Give the image tower these weights."""
        clip.visual.load_state_dict(dict(self.visual))


def between(zero_shot: Weights, fine_tuned: Weights, alpha: float) -> Weights:
    """(1 − α)·θ₀ + α·θ₁ for each weight, the running statistics of batch norm like all others.

    At α 0 and 1 they are those of the ends to the bit. Whole numbers (how many batches a batch norm has
    counted, of which nothing computed here depends) are rounded.
    """
    if alpha in (0, 1):
        return fine_tuned if alpha else zero_shot
    visual = {name: _mixed(value, fine_tuned.visual[name], alpha) for name, value in zero_shot.visual.items()}
    return Weights(visual, _mixed(zero_shot.head_DN, fine_tuned.head_DN, alpha))


def _mixed(zero_shot: Tensor, fine_tuned: Tensor, alpha: float) -> Tensor:
    mixed = (1 - alpha) * zero_shot + alpha * fine_tuned
    return mixed if zero_shot.is_floating_point() else mixed.round().to(zero_shot.dtype)


class Score(NamedTuple):
    """Top-1 on one set, over so many pictures that were read; `partial` and `unreadable` as in its result."""

    name: str
    images: int
    top1: float
    partial: bool = False
    unreadable: tuple[str, ...] = ()

    @classmethod
    def of(cls, result: ZeroShotResult) -> "Score":
        """Return what of a result the line is told by."""
        return cls(result.name, result.images, result.top1, result.partial, result.unreadable)


@dataclass(frozen=True)
class Point:
    """What the model at one α scored: on the in-distribution set first, then on the shifted ones."""

    alpha: float
    scores: tuple[Score, ...]

    @property
    def shifted(self) -> float:
        """The mean top-1 over the shifted sets, each counting once."""
        return fmean(score.top1 for score in self.scores[1:])


@dataclass(frozen=True)
class Measured:
    """The model at one α, and its results on the sets in their order."""

    alpha: float
    weights: Weights
    results: tuple[ZeroShotResult, ...]

    @property
    def point(self) -> Point:
        """The point of the line."""
        return Point(self.alpha, tuple(map(Score.of, self.results)))


def measured(
    clip: Clip,
    ends: tuple[Weights, Weights],
    alphas: Sequence[float],
    sets: Sequence[LabelledImages],
    *,
    workers: int | None,
    display: Display,
) -> Iterator[Measured]:
    """Evaluate the model at each α on each set; `clip` has its weights until the next one is asked for."""
    for alpha in alphas:
        weights = between(*ends, alpha)
        weights.put_into(clip)
        results = []
        for images in sets:
            with display(f"α {alpha:g} {images.name}", len(images), "images") as report:
                results.append(classify(clip, weights.head_DN, images, workers=workers, report=report))
        yield Measured(alpha, weights, tuple(results))
