"""Zero-shot accuracy over samples, and a power law through it.

The law is that of the scaling-law literature for CLIP (Cherti et al. 2023, arXiv 2212.07143): the error,
1 - top-1, is a · samples^b, a straight line in logarithms. For small accuracies log(1 - top-1) is about
-top-1, so that accuracy itself rises in a straight line over log(samples).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from clipkit.evaluate.scores import Score, Series

Axis: TypeAlias = Literal["seen", "used"]

LEAST_POINTS = 3  # a line goes through any two
LEAST_RATIO = 1.25  # of numbers of samples that differ clearly
_LARGEST_LOGARITHM = 300  # of the factor; that of what no float holds is 709


@dataclass(frozen=True)
class Point:
    """Top-1 accuracy, a share, after so many samples."""

    samples: int
    top1: float


@dataclass(frozen=True)
class PowerLaw:
    """Error = factor · samples^exponent, fitted to `points` points from `low` to `high` samples.

    It is of several finished `runs`, or of the checkpoints of one, and then forecasts no longer run: a
    schedule that decays lifts the last of them. `standard_error` is that of the exponent, `r2` the share of
    the variance of log(error) that it explains.
    """

    name: str
    runs: int
    factor: float
    exponent: float
    standard_error: float
    r2: float
    points: int
    low: int
    high: int

    def top1(self, samples: float) -> float:
        """The accuracy that it gives; below `low` and above `high` it is extrapolated."""
        return float(1 - self.factor * samples**self.exponent)


@dataclass(frozen=True)
class RunScaling:
    """A run's accuracies on one set, by rising samples."""

    run: str
    model: str | None
    points: tuple[Point, ...]


@dataclass
class SetScaling:
    """All runs' accuracies on one set, what guessing scores there, and the laws through them.

    `no_fit` says why there is none, or none for some of the runs.
    """

    name: str
    runs: list[RunScaling] = field(default_factory=list)
    chance: float | None = None
    laws: list[PowerLaw] = field(default_factory=list)
    no_fit: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return runs with their points, and laws."""
        return {
            "set": self.name,
            "chance": self.chance,
            "runs": [
                {
                    "run": each.run,
                    "model": each.model,
                    "points": [{"samples": point.samples, "top1": point.top1} for point in each.points],
                }
                for each in self.runs
            ],
            "fits": [vars(each) for each in self.laws],
            "no_fit": list(self.no_fit),
        }


def scalings(series: Sequence[Series], axis: Axis, notes: list[str]) -> list[SetScaling]:
    """The accuracies on each set over the samples `seen`, or those `used`: different ones, at most an epoch.

    A subset of a set is a set of its own here. What is left out is said in `notes`.
    """
    sets: dict[str, SetScaling] = {}
    same: dict[tuple[str, str], set[object]] = {}
    for run in series:
        for name, scores in _by_set(run).items():
            points = _points(run, scores, axis, notes)
            if not points:
                continue
            found = sets.setdefault(name, SetScaling(name))
            found.runs.append(RunScaling(run.label, _model(run), points))
            found.chance = next((each.chance for each in scores if each.chance), found.chance)
            same.setdefault((name, "pictures"), set()).update(each.files_sha256 for each in scores)
            same.setdefault((name, "prompts"), set()).update(each.prompts for each in scores)
    for (name, what), hashes in same.items():
        if len(hashes - {None}) > 1:
            notes.append(f"{name}: the results are not all of the same {what}")
    for each in sets.values():
        _fit_all(each)
    return list(sets.values())


def fit(points: Sequence[Point], name: str, runs: int = 1) -> PowerLaw | None:
    """The power law through points, by least squares in logarithms.

    None if fewer than three of them have numbers of samples that differ clearly, each LEAST_RATIO times the
    one before, or if the factor is out of reach. Points without an error are left out.
    """
    with_error = [each for each in points if each.top1 < 1]
    if _clearly_different(each.samples for each in with_error) < LEAST_POINTS:
        return None
    x = np.log([each.samples for each in with_error])
    y = np.log([1 - each.top1 for each in with_error])
    middle = x.mean()
    spread = float(((x - middle) ** 2).sum())
    exponent = float(((x - middle) * y).sum()) / spread
    constant = float(y.mean()) - exponent * float(middle)
    if abs(constant) > _LARGEST_LOGARITHM:
        return None
    squares = float(((y - exponent * x - constant) ** 2).sum())
    total = float(((y - y.mean()) ** 2).sum())
    samples = [each.samples for each in with_error]
    return PowerLaw(
        name=name,
        runs=runs,
        factor=math.exp(constant),
        exponent=exponent,
        standard_error=math.sqrt(squares / (len(x) - 2) / spread),
        r2=1 - squares / total if total else 1.0,
        points=len(x),
        low=min(samples),
        high=max(samples),
    )


def _clearly_different(samples: Iterable[int]) -> int:
    """How many of the numbers, from the lowest on, are LEAST_RATIO times the one counted before."""
    count, last = 0, 0
    for each in sorted(samples):
        if each > 0 and each >= LEAST_RATIO * last:
            count, last = count + 1, each
    return count


def _fit_all(found: SetScaling) -> None:
    """Fit the last checkpoints of a model's runs; of too few runs, each run's own checkpoints."""
    models: dict[str | None, list[RunScaling]] = {}
    for run in found.runs:
        models.setdefault(run.model, []).append(run)
    for model, runs in models.items():
        law = fit([run.points[-1] for run in runs], f"{model or 'model'}, {len(runs)} runs", len(runs))
        laws = [law] if law else [fit(run.points, f"{run.run}, its checkpoints") for run in runs]
        found.laws += [each for each in laws if each]
        if not all(laws):
            name = runs[0].run if len(runs) == 1 else model or "the model"
            found.no_fit.append(
                f"{name}: no fit, it needs {LEAST_POINTS} runs, or checkpoints of a run, with clearly "
                f"different numbers of samples (each {LEAST_RATIO} times the one before) and errors "
                "that a law can follow"
            )


def _by_set(run: Series) -> dict[str, list[Score]]:
    # Training evaluates whole sets alone: its scores go with those of whole sets.
    sets: dict[str, list[Score]] = {}
    for score in run.scores:
        if score.tuned:
            continue
        count = f"{score.images:,} pictures" if score.images is not None else "a part"
        name = f"{score.set_name} (a subset: {count})" if score.partial else score.set_name
        sets.setdefault(name, []).append(score)
    return sets


def _points(run: Series, scores: list[Score], axis: Axis, notes: list[str]) -> tuple[Point, ...]:
    found: dict[int, Score] = {}
    # The newest stands; logs of training tell no date, and are the oldest.
    for score in sorted(scores, key=lambda each: each.date):
        if score.samples is None:
            notes.append(f"{run.label}: left out, its results do not say how many samples it has seen")
        elif score.samples <= 0:
            notes.append(f"{run.label}: left out at 0 samples, which have no place on a log scale")
        else:
            before = found.get(score.samples)
            if before is not None and not before.in_training and before.top1 != score.top1:
                notes.append(_left_out(run, before, score))
            found[score.samples] = score
    points: dict[int, Point] = {}
    for seen, score in sorted(found.items()):
        samples = seen if axis == "seen" else _used(run, seen, notes)
        if samples:
            points[samples] = Point(samples, score.top1)  # of those with the same samples used, the last
    return tuple(points.values())


def _left_out(run: Series, before: Score, newer: Score) -> str:
    older, shown = (
        f"{each.top1:.2%} with {each.templates} templates" + (f" of {each.date}" if each.date else "")
        for each in (before, newer)
    )
    return f"{run.label}: on {newer.set_name} at {newer.samples:,} samples left out {older}, shown is {shown}"


def _used(run: Series, seen: int, notes: list[str]) -> int | None:
    if run.epoch_samples is None:
        notes.append(f"{run.label}: left out, nothing tells how many samples its data set has")
        return None
    if run.mixed and seen > run.epoch_samples:
        notes.append(
            f"{run.label}: left out after its first epoch, of several data sets nothing tells how many "
            "different samples were used"
        )
        return None
    return min(seen, run.epoch_samples)


def _model(run: Series) -> str | None:
    return next((each.model for each in reversed(run.scores) if each.model), run.model)
