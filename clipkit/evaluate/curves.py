"""The figures of a run over the samples that it had seen, from its metrics.jsonl and results.jsonl."""

import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipkit.errors import EvaluationError, one_line
from clipkit.evaluate.results import metric_name
from clipkit.json_values import parsed_json
from clipkit.lines import JsonLines
from clipkit.run_folder import CONFIG, METRICS, RESULTS

TRAINING_FIGURES = frozenset(
    {
        "loss",
        "lr",
        "logit_scale",
        "grad_norm",
        "samples_per_second",
        "data_wait",
        "peak_memory_mb",
        "peak_gpu_memory_mb",
        "loss_scale",
        "skipped_steps",
    }
)
VALIDATION_LOSS = "clip_val_loss"
RECALL = re.compile(r"(image_to_text|text_to_image)_R@(\d+)")
_PLACES = frozenset({"step", "samples", "epoch"})
_CHANCE = "chance"
_MOST_SAMPLES = 2**53
_PAIRS = "num_samples"


@dataclass
class RunCurves:
    """One run: by the name of a figure, its values over samples seen.

    `logged` comes from the run's own metrics, `results` from evaluations of its checkpoints afterwards, and
    `chance[NAME]` is what guessing scores for the figure NAME: ln(batch size) for losses. `notes` say what
    was left out.
    """

    label: str
    logged: dict[str, dict[int, float]] = field(default_factory=dict)
    results: dict[str, dict[int, float]] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def evaluations(self) -> set[str]:
        """Names of the figures that came of evaluations."""
        return {*self.logged, *self.results} - TRAINING_FIGURES


def read_runs(runs: Iterable[Path]) -> tuple[list[RunCurves], list[str]]:
    """Read run directories, each once; return those that have figures, and what is to be said of the others.

    Runs of one name are told apart by the folders that they lie in. Raises EvaluationError where no run has
    a figure, and as `read_run` does.
    """
    paths = list(dict.fromkeys(run.resolve() for run in runs))
    labels = told_apart([one_line(path.name) for path in paths], [path.parents for path in paths])
    found = [read_run(path, label) for path, label in zip(paths, labels, strict=True)]
    empty = [f"{run.label}: left out, since it has not logged a step yet" for run in found if not run.logged]
    if len(empty) == len(found):
        raise EvaluationError("; ".join(empty) or "no run to plot; give one or more run directories")
    return [run for run in found if run.logged], empty


def read_run(run: Path, label: str | None = None) -> RunCurves:
    """Read the curves of a run directory, called `label`; one that has begun and logged nothing has none.

    Where a run went over the same samples twice, after an interruption, the later line stands. Raises
    EvaluationError for a directory that is none of a run.
    """
    metrics = run / METRICS
    if not metrics.is_file() and not (run / CONFIG).is_file():
        raise EvaluationError(f"{run}: no {METRICS}; expected the directory of a training run")
    curves = RunCurves(label=label or one_line(run.resolve().name))
    for line in JsonLines(metrics, EvaluationError).read():
        _add_metrics(curves, line)
    for line in JsonLines(run / RESULTS, EvaluationError).read():
        _add_result(curves, line)
    match run_config(run):
        case {"batch_size": int(batch_size)} if batch_size > 0:
            curves.chance |= {name: math.log(batch_size) for name in ("loss", VALIDATION_LOSS)}
    return curves


def told_apart(
    labels: Sequence[str], folders: Sequence[Sequence[Path]], most: int | None = None
) -> list[str]:
    """Put the names of its `folders`, the nearest first, before each label that several have.

    As many as it takes, or at the `most`.
    """
    told = list(labels)
    for depth in range(max(map(len, folders), default=0))[:most]:
        counts = Counter(told)
        for number, own in enumerate(folders):
            if counts[told[number]] > 1 and depth < len(own) and own[depth].name:
                told[number] = f"{one_line(own[depth].name)}/{told[number]}"
    return told


def run_config(run: Path) -> Any:
    """Return what the run's config.json holds; None if it cannot be read, which is not worth an error."""
    try:
        return parsed_json((run / CONFIG).read_bytes())
    except (OSError, ValueError):
        return None


def _add_metrics(curves: RunCurves, line: dict[str, Any]) -> None:
    samples = sample_count(line.get("samples"))
    if samples is None:
        return
    for name, value in _numbers(line):
        if name.endswith(f"-{_CHANCE}"):
            stem = name.removesuffix(_CHANCE)
            curves.chance |= {f"{stem}top1": value, f"{stem}top5": min(1.0, 5 * value)}
        elif name == _PAIRS:
            recalls = {name: int(found[2]) for name in line if (found := RECALL.fullmatch(name))}
            curves.chance |= {name: min(1.0, k / value) for name, k in recalls.items() if value}
        else:
            curves.logged.setdefault(one_line(name), {})[samples] = value


def _add_result(curves: RunCurves, line: dict[str, Any]) -> None:
    samples, set_name = sample_count(line.get("samples")), line.get("set")
    if line.get("kind") != "zero-shot" or samples is None or not isinstance(set_name, str):
        return
    set_name = one_line(set_name)
    if line.get("partial") is True:
        curves.notes.append(f"{curves.label}: left out a result on {set_name}, a subset")
        return
    for figure, value in _numbers(line):
        if figure in {"top1", "top5"}:
            curves.results.setdefault(metric_name(set_name, figure), {})[samples] = value
        elif figure == _CHANCE:
            curves.chance[metric_name(set_name, "top1")] = value
            curves.chance[metric_name(set_name, "top5")] = min(1.0, 5 * value)


def _numbers(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        if name in _PLACES or not is_number(value):
            continue
        if abs(value) <= sys.float_info.max:  # neither a NaN nor what no float holds
            yield name, float(value)


def sample_count(value: Any) -> int | None:
    """The whole number of samples that `value` is, below 2⁵³; else None."""
    if not is_number(value) or not 0 <= value <= _MOST_SAMPLES or value != math.floor(value):
        return None
    return int(value)


def is_number(value: Any) -> bool:
    """Whether it is one: maybe a NaN, which no comparison holds for, or longer than any float."""
    return isinstance(value, int | float) and not isinstance(value, bool)
