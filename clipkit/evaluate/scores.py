"""Scores of models on labelled pictures, read back from results.jsonl and metrics.jsonl."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipkit.errors import EvaluationError, one_line
from clipkit.evaluate.curves import is_number, run_config, sample_count, told_apart
from clipkit.evaluate.results import metric_name
from clipkit.lines import JsonLines
from clipkit.run_folder import CHECKPOINTS, METRICS, RESULTS

_TOP1 = metric_name("", "top1")
_CHANCE = metric_name("", "chance")
_MOST_FOLDERS = 4
_TUNED = "fine-tuned"
_RESULTS = ("zero-shot", _TUNED)


@dataclass(frozen=True)
class Score:
    """What a model scored on one set. What its line did not say is None.

    `checkpoint` tells the models of a series apart, `file` is the name of the model's file, `prompts` the
    classes and templates, `date` when it was evaluated (ISO 8601, "" if that is not said). `images` are
    those of the set, also the `unreadable` ones. What a run logged `in_training` is of whole sets alone. A
    `tuned` model has a head of its own, and is no zero-shot one.
    """

    checkpoint: str
    set_name: str
    top1: float
    model: str | None = None
    samples: int | None = None
    chance: float | None = None
    prompts: tuple[str, str] | None = None
    templates: int = 0
    files_sha256: str | None = None
    path: str = ""
    images: int | None = None
    unreadable: int = 0
    classes: int | None = None
    partial: bool | None = None
    in_training: bool = False
    tuned: bool = False
    file: str = ""
    date: str = ""


@dataclass
class Series:
    """The scores of one run's checkpoints, in the order of their lines, or those of one model file.

    `folders` are those that it lies in, the innermost first. `model` is the run's. `epoch_samples` is the
    number of samples in an epoch of the run, None if nothing tells it; `mixed` if they come of several data
    sets, which need not end together.
    """

    label: str
    folders: tuple[Path, ...] = ()
    scores: list[Score] = field(default_factory=list)
    model: str | None = None
    epoch_samples: int | None = None
    mixed: bool = False


def read_series(inputs: Iterable[Path]) -> tuple[list[Series], list[str]]:
    """Read run directories and results.jsonl files; return their series, and what was passed over and why.

    A directory's metrics.jsonl counts where its results.jsonl does not have the same evaluation. Raises
    EvaluationError for what is neither, and what cannot be read.
    """
    paths = {each.resolve(): each for each in inputs}
    notes: list[str] = []
    found = [series for path in paths.values() for series in _read(path, notes)]
    _tell_apart(found)
    return found, list(dict.fromkeys(notes))


def _read(path: Path, notes: list[str]) -> list[Series]:
    files = [path / RESULTS, path / METRICS] if path.is_dir() else [path]
    files = [file for file in files if file.is_file()]
    if not files:
        raise EvaluationError(
            f"{path}: expected the directory of a run or a file {RESULTS}, found "
            + (f"neither {RESULTS} nor {METRICS} in it" if path.is_dir() else "no such file")
        )
    folder = (path if path.is_dir() else path.parent).resolve()
    run = Series(one_line(folder.name), tuple(folder.parents))
    _describe_run(run, folder)
    models: dict[str, Series] = {}
    for file in files:
        lines = JsonLines(file, EvaluationError).read()
        if not lines and file.stat().st_size:
            raise EvaluationError(f"{file}: expected lines of JSON objects, found none in it")
        for line in lines:
            if line.get("kind") in _RESULTS and isinstance(line.get("set"), str):
                _add_result(run, models, folder, line, notes)
            elif line.get("kind") in (None, "training"):
                _add_logged(run, line, notes)
    return [each for each in (run, *models.values()) if each.scores]


def _describe_run(run: Series, folder: Path) -> None:
    config = run_config(folder)
    run.model = _model(config) if isinstance(config, dict) else None
    match config:
        case {"data": {"samples": int(samples)} as data} if samples > 0:
            run.epoch_samples = samples
            run.mixed = "shares" in data


def _add_result(
    run: Series, models: dict[str, Series], folder: Path, line: dict[str, Any], notes: list[str]
) -> None:
    """Add a result to the run, or to the model file that it is about."""
    top1 = share(line.get("top1"))
    if top1 is None:
        set_name = one_line(line["set"])
        notes.append(f"{run.label}: passed over a result on {set_name} whose top1 is no number in 0…1")
        return
    score = _score(line, top1)
    checkpoint = Path(_text(line.get("checkpoint")) or "")
    if score.samples is not None and checkpoint.parent.name in (CHECKPOINTS, ""):
        run.scores.append(score)
    else:
        name = one_line(checkpoint.stem or score.checkpoint)
        models.setdefault(score.checkpoint, Series(name, (folder, *folder.parents))).scores.append(score)


def _add_logged(run: Series, line: dict[str, Any], notes: list[str]) -> None:
    samples = sample_count(line.get("samples"))
    for name, value in line.items():
        set_name = name.removesuffix(_TOP1)
        if samples is None or set_name == name:
            continue
        top1 = share(value)
        if top1 is None:
            notes.append(f"{run.label}: passed over {one_line(name)}s that are no numbers in 0…1")
            continue
        chance = share(line.get(set_name + _CHANCE))
        checkpoint = f"{samples} samples"
        score = Score(checkpoint, one_line(set_name), top1, samples=samples, chance=chance, in_training=True)
        if score not in run.scores:
            run.scores.append(score)


def _score(line: dict[str, Any], top1: float) -> Score:
    samples = sample_count(line.get("samples"))
    sha256, path = _text(line.get("checkpoint_sha256")), _text(line.get("checkpoint"))
    names, templates = _text(line.get("names_sha256")), _text(line.get("templates_sha256"))
    unreadable, partial = line.get("unreadable"), line.get("partial")
    return Score(
        checkpoint=sha256 or path or (f"{samples} samples" if samples is not None else "a model"),
        set_name=one_line(line["set"]),
        top1=top1,
        model=_model(line),
        samples=samples,
        chance=share(line.get("chance")),
        prompts=(names, templates) if names and templates else None,
        templates=sample_count(line.get("templates")) or 0,
        files_sha256=_text(line.get("files_sha256")),
        path=_text(line.get("path")) or "",
        images=sample_count(line.get("images")),
        unreadable=len(unreadable) if isinstance(unreadable, list) else 0,
        classes=sample_count(line.get("classes")),
        partial=partial if isinstance(partial, bool) else None,
        tuned=line["kind"] == _TUNED,
        file=one_line(Path(path or "").stem),
        date=one_line(_text(line.get("date")) or ""),
    )


def _tell_apart(found: list[Series]) -> None:
    """Put folders' names before labels that several series have; what is then alike gets its checkpoint's."""
    labels = told_apart([each.label for each in found], [each.folders for each in found], _MOST_FOLDERS)
    counts = Counter(labels)
    for each, label in zip(found, labels, strict=True):
        same = counts[label] > 1
        each.label = f"{label} ({one_line(each.scores[0].checkpoint[:8])})" if same else label


def share(value: Any) -> float | None:
    """The number in 0…1 that `value` is, else None."""
    return float(value) if is_number(value) and 0 <= value <= 1 else None


def _model(about: dict[str, Any]) -> str | None:
    name = _text(about.get("model"))
    return one_line(name) if name else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
