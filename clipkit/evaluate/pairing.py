"""Models that were scored on ImageNet and on ImageNetV2, and how far they lie above the trend."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipkit.evaluate.imagenet import CLASSES, V2_IMAGES, V2_SETS, VALIDATION_IMAGES, v2_set
from clipkit.evaluate.scores import Score, Series
from clipkit.evaluate.trend import imagenet_trend

_IMAGENET = "imagenet"
_MATCHED = V2_SETS[0]
_NOT_STATED = "not stated"


@dataclass(frozen=True)
class Robustness:
    """A model's accuracies, and its effective robustness with half its 95% interval; all are shares.

    `v2_set` is "matched-frequency", or "not stated" where the result does not say which of the three V2 sets
    it is of. `file` names the model's file where the run has several of these samples.
    `extrapolated`: no standard model of the trend has such an accuracy on ImageNet.
    """

    run: str
    samples: int | None
    imagenet: float
    imagenet_v2: float
    v2_set: str = _MATCHED
    file: str = ""

    @property
    def name(self) -> str:
        """The run, with the model's file where that is needed to tell it."""
        return f"{self.run} ({self.file})" if self.file else self.run

    @property
    def effective_robustness(self) -> float:
        """Accuracy on V2 beyond what the trend predicts."""
        return imagenet_trend().effective_robustness(self.imagenet, self.imagenet_v2)

    @property
    def interval_95(self) -> float:
        """Half the 95% interval of the effective robustness."""
        return imagenet_trend().interval_95(self.imagenet, self.imagenet_v2, VALIDATION_IMAGES, V2_IMAGES)

    @property
    def extrapolated(self) -> bool:
        """Whether the trend is extrapolated to this accuracy."""
        return not imagenet_trend().supports(self.imagenet)

    @property
    def has_place(self) -> bool:
        """Whether both accuracies have a logit, and so a place in the picture."""
        return all(0 < each < 1 for each in (self.imagenet, self.imagenet_v2))

    @property
    def stated(self) -> bool:
        """Whether its V2 set is known to be the trend's."""
        return self.v2_set == _MATCHED

    def points(self) -> str:
        """The effective robustness in points, such as "+1.9 ± 0.9"."""
        # Adding 0 makes a plus of the minus that a rounded 0 may have.
        return f"{round(100 * self.effective_robustness, 1) + 0.0:+.1f} ± {100 * self.interval_95:.1f}"

    def as_json(self) -> dict[str, Any]:
        """Return all of it; robustness and interval in points."""
        return {
            "run": self.run,
            "file": self.file,
            "samples": self.samples,
            "imagenet": self.imagenet,
            "imagenet_v2": self.imagenet_v2,
            "v2_set": self.v2_set,
            "predicted": imagenet_trend().predicted(self.imagenet),
            "effective_robustness_points": 100 * self.effective_robustness,
            "interval_95_points": 100 * self.interval_95,
            "extrapolated": self.extrapolated,
        }


def paired(series: Series, notes: list[str]) -> list[Robustness]:
    """The models of a series that have whole results on both sets, by the samples that they had seen.

    Both results are of the same prompts; of several prompts those with the most templates are taken, and of
    results that were repeated the last. What is left out is said in `notes`.
    """
    found: dict[str, dict[tuple[Any, ...], dict[str, Score]]] = {}
    for score in series.scores:
        kind = _kind(score)
        if kind is None:
            continue
        fault = _fault(score, kind)
        if fault:
            notes.append(f"{series.label}: left out a result on {score.set_name}, {fault}")
            continue
        found.setdefault(score.checkpoint, {}).setdefault(_prompts(score), {})[kind] = score
    models = [each for prompts in found.values() if (each := _best(series.label, prompts, notes))]
    return list(_each_once(models, series.label))


def _best(label: str, prompts: dict[tuple[Any, ...], dict[str, Score]], notes: list[str]) -> list[Score]:
    whole = [each for each in prompts.values() if _IMAGENET in each and len(each) > 1]
    if not whole:
        kinds = sorted({kind for each in prompts.values() for kind in each})
        why = "no result on the other set" if len(kinds) == 1 else "but of different prompts"
        notes.append(f"{label}: left out a model with results on {' and '.join(kinds)}, {why}")
        return []
    most = max(whole, key=lambda each: each[_IMAGENET].templates)
    if len(whole) > 1:
        notes.append(f"{label}: of several prompts, those with the most templates are shown")
    return [most[_IMAGENET], most.get(_MATCHED) or most[_NOT_STATED]]


def _each_once(models: list[list[Score]], label: str) -> Iterator[Robustness]:
    # What was evaluated afterwards stands for what the same checkpoint scored during training. That names no
    # checkpoint: of several with its samples, such as those of a fine-tuning's line, none is known to be it.
    evaluated = Counter(imagenet.samples for imagenet, _ in models if not imagenet.in_training)
    shown = [pair for pair in models if not (pair[0].in_training and evaluated[pair[0].samples] == 1)]
    counts = Counter(imagenet.samples for imagenet, _ in shown)
    files = Counter((imagenet.samples, imagenet.file) for imagenet, _ in shown)
    for imagenet, v2 in sorted(shown, key=lambda pair: pair[0].samples or 0):
        file = imagenet.file or ("in training" if imagenet.in_training else "")
        if files[imagenet.samples, imagenet.file] > 1:
            file = f"{file} {imagenet.checkpoint[:8]}".lstrip()
        stated = _v2_set(v2) or _NOT_STATED
        yield Robustness(
            label,
            imagenet.samples,
            imagenet.top1,
            v2.top1,
            stated,
            file if counts[imagenet.samples] > 1 else "",
        )


def _prompts(score: Score) -> tuple[Any, ...]:
    return (score.prompts, score.in_training)


def _kind(score: Score) -> str | None:
    return _IMAGENET if score.set_name == _IMAGENET else _v2_set(score)


def _v2_set(score: Score) -> str | None:
    """Which of the three V2 sets a result is of; None for another set altogether."""
    if not score.set_name.lower().replace("-", "").replace("_", "").startswith("imagenetv2"):
        return None
    return v2_set(score.set_name, *reversed(Path(score.path).parts)) or _NOT_STATED


def _fault(score: Score, kind: str) -> str | None:
    """Why a result cannot be laid beside the trend."""
    expected = VALIDATION_IMAGES if kind == _IMAGENET else V2_IMAGES
    if kind not in (_IMAGENET, _MATCHED, _NOT_STATED):
        return f"the trend is that of ImageNetV2's {_MATCHED} set"
    if score.partial:
        return "a subset"
    if score.classes not in (None, CLASSES):
        return f"it has {score.classes:,} classes, not {CLASSES:,}"
    if score.images is not None and score.images + score.unreadable != expected:
        return f"it has {score.images + score.unreadable:,} pictures, not {expected:,}"
    if score.images is None and score.partial is None and not score.in_training:
        return "it does not say of how many pictures"
    return None
