"""ImageNetV2 accuracy by ImageNet accuracy: the trend of models trained on ImageNet, and what lies above it.

Effective robustness is that of Taori et al. 2020 (arXiv 2007.00644): accuracy on the shifted set minus what
the trend of standard models predicts at the same accuracy on ImageNet. All accuracies are shares in 0…1, and
V2 is its matched-frequency set.
"""

import csv
import functools
import math
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class PublishedModel:
    """A model's published top-1 accuracy on both sets; `zero_shot`: a CLIP model, not a standard one."""

    name: str
    imagenet: float
    imagenet_v2: float
    zero_shot: bool


@dataclass(frozen=True)
class Trend:
    """A straight line in logits: logit(V2) = slope · logit(ImageNet) + intercept.

    It was fitted to `models` models between the ImageNet accuracies `low` and `high`, with correlation `r`;
    elsewhere it is extrapolated.
    """

    slope: float
    intercept: float
    r: float
    models: int
    low: float
    high: float

    def predicted(self, imagenet: float) -> float:
        """The accuracy on V2 of a standard model with the accuracy `imagenet`; 0 gives 0, and 1 gives 1."""
        return expit(self.slope * logit(imagenet) + self.intercept)

    def supports(self, imagenet: float) -> bool:
        """Whether standard models of such an accuracy are among those that it was fitted to."""
        return self.low <= imagenet <= self.high

    def effective_robustness(self, imagenet: float, imagenet_v2: float) -> float:
        """Accuracy on V2 beyond what the trend predicts at the accuracy `imagenet`, as a share."""
        return imagenet_v2 - self.predicted(imagenet)

    def interval_95(self, imagenet: float, imagenet_v2: float, images: int, images_v2: int) -> float:
        """Half the 95% interval of the effective robustness, for so many pictures in each set.

        It is that of drawing other pictures, carried through the trend's slope; the trend counts as exact.
        """
        predicted = self.predicted(imagenet)
        # d predicted / d imagenet, times the standard error of imagenet, without a division by 0.
        of_imagenet = imagenet * (1 - imagenet)
        carried = (
            (self.slope * predicted * (1 - predicted)) ** 2 / (of_imagenet * images) if of_imagenet else 0
        )
        return NORMAL_95 * math.sqrt(carried + imagenet_v2 * (1 - imagenet_v2) / images_v2)


def logit(share: float) -> float:
    """ln(share / (1 - share)); infinite at 0 and 1."""
    if share in (0, 1):
        return math.inf if share else -math.inf
    return math.log(share / (1 - share))


def expit(value: float) -> float:
    """The share whose logit is `value`."""
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


@functools.cache
def published_models() -> tuple[PublishedModel, ...]:
    """The package's table of published accuracies, whose sources stand in its first lines."""
    path = resources.files("clipkit.evaluate") / "data" / "imagenet_robustness.csv"
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return tuple(
        PublishedModel(
            row["model"],
            float(row["imagenet_top1"]) / 100,
            float(row["imagenetv2_top1"]) / 100,
            row["family"] == "zero-shot",
        )
        for row in csv.DictReader(lines)
    )


@functools.cache
def imagenet_trend() -> Trend:
    """The trend of the published standard models, by least squares of V2's logits on ImageNet's."""
    imagenet, v2 = accuracies(zero_shot=False)
    x, y = (np.log(each / (1 - each)) for each in (imagenet, v2))
    slope, intercept = np.polyfit(x, y, 1)
    r = np.corrcoef(x, y)[0, 1]
    ends = imagenet.min(), imagenet.max()
    return Trend(float(slope), float(intercept), float(r), len(x), *map(float, ends))


def accuracies(*, zero_shot: bool) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The published accuracies on ImageNet and on V2, of the CLIP models or of the standard ones."""
    chosen = [each for each in published_models() if each.zero_shot == zero_shot]
    return np.array([each.imagenet for each in chosen]), np.array([each.imagenet_v2 for each in chosen])
