"""What a model scored on each class, and what it took the class's pictures for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipkit.evaluate.classes import ClassSet
from clipkit.evaluate.predictions import Predictions

_MISTAKES = 3
_WORST = 10


@dataclass(frozen=True)
class ClassScore:
    """One class: `images` read, and the sums over them of top-1 and top-5 (see `hits`).

    `mistakes` are the wrong classes that were predicted for them the most often, with how often.
    """

    label: int
    images: int
    top1_correct: float
    top5_correct: float
    mistakes: tuple[tuple[int, int], ...]

    @property
    def top1(self) -> float:
        """The share of its pictures that were recognised: the class's recall."""
        return self.top1_correct / self.images

    @property
    def top5(self) -> float:
        """The share of its pictures whose class is among the five nearest."""
        return self.top5_correct / self.images


def class_scores(predictions: Predictions) -> tuple[ClassScore, ...]:
    """Return the scores of the classes that have pictures, by label."""
    labels = predictions.labels_K[predictions.read_K]
    seen, of_picture = np.unique(labels, return_inverse=True)
    images = np.bincount(of_picture)
    top1, top5 = (np.bincount(of_picture, row[predictions.read_K]) for row in predictions.hits_2K)
    mistakes: dict[int, list[tuple[int, int]]] = {}
    predicted = predictions.top_KT[predictions.read_K, 0]
    wrong = np.stack([labels, predicted], axis=1)[predicted != labels]
    pairs, counts = np.unique(wrong, axis=0, return_counts=True)
    for place in np.argsort(-counts, kind="stable"):
        label, other = pairs[place].tolist()
        mistakes.setdefault(label, []).append((other, int(counts[place])))
    return tuple(
        ClassScore(label, int(count), float(one), float(five), tuple(mistakes.get(label, [])[:_MISTAKES]))
        for label, count, one, five in zip(seen.tolist(), images, top1, top5, strict=True)
    )


def worst(scores: Sequence[ClassScore], count: int = _WORST) -> list[ClassScore]:
    """Return the classes of the lowest recall, the worst first; none that is always recognised."""
    mistaken = [each for each in scores if each.top1 < 1]
    return sorted(mistaken, key=lambda each: (each.top1, each.label))[:count]


def worst_records(scores: Sequence[ClassScore], classes: ClassSet) -> list[dict[str, Any]]:
    """Return the worst classes for results.jsonl: how they scored, and what they were taken for."""
    return [
        {
            "folder": classes.folders[each.label],
            "names": list(classes.names[each.label]),
            "images": each.images,
            "top1": each.top1,
            "top5": each.top5,
            "taken_for": [
                {"folder": classes.folders[other], "names": list(classes.names[other]), "images": count}
                for other, count in each.mistakes
            ],
        }
        for each in worst(scores)
    ]


def worst_lines(set_name: str, scores: Sequence[ClassScore], classes: ClassSet, count: int = 3) -> list[str]:
    """Return a line for each of the worst classes, to read."""
    lines = []
    for each in worst(scores, count):
        mistakes = [(classes.names[other][0], times) for other, times in each.mistakes[:1]]
        taken = "".join(f", {times:,} taken for {other!r}" for other, times in mistakes)
        lines.append(
            f"worst of {set_name}: {classes.names[each.label][0]!r} ({classes.folders[each.label]}), top-1 "
            f"{each.top1:.2%} of {each.images:,} images{taken}"
        )
    return lines
