"""`clipkit evaluate`: open what was asked for, check all of it, evaluate, record."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipkit.errors import CheckpointError, EvaluationError
from clipkit.evaluate.classes import (
    DEFAULT_TEMPLATES,
    ClassSet,
    imagenet_classes,
    listing,
    read_classes,
    read_templates,
    repeats,
)
from clipkit.evaluate.config import IMAGE_BATCH, EvaluateConfig
from clipkit.evaluate.imagenet import imagenet_v2, imagenet_validation
from clipkit.evaluate.images import read_folder
from clipkit.evaluate.results import results_path, zero_shot_record
from clipkit.evaluate.sets import Evaluator, ZeroShotSet, evaluate_sets, evaluator
from clipkit.evaluate.validation import validation_evaluator
from clipkit.evaluate.zero_shot import Report, ZeroShotResult
from clipkit.lines import JsonLines
from clipkit.model.checkpoint import load_checkpoint, load_model
from clipkit.model.clip import Clip
from clipkit.model.identity import model_sha256, resolved
from clipkit.progress import Progress
from clipkit.shards.sample_set import SampleSet
from clipkit.tables import Cell, table


@dataclass(frozen=True)
class Evaluation:
    """What one model scored on each set, and the lines about it that were added to `results_file`."""

    results: tuple[ZeroShotResult, ...]
    records: tuple[dict[str, Any], ...]
    results_file: Path

    def as_json(self) -> dict[str, Any]:
        """Return the lines of results.jsonl, and where that file is."""
        return {"results": list(self.records), "results_file": str(self.results_file)}

    def lines(self) -> str:
        """Return a table with a line a set, and the pictures that could not be read."""
        header = ("set", "images", "classes", "top-1", "95% interval", "top-5", "mean recall", "chance", "of")
        lines = [table([_row(result) for result in self.results], header)]
        for result in self.results:
            lines += [f"unreadable, left out of {result.name}: {path}" for path in result.unreadable]
        return "\n".join([*lines, f"added to {self.results_file}"])


def evaluate(
    checkpoint: Path, config: EvaluateConfig, *, model: str | None = None, device: str | None = None
) -> Evaluation:
    """Evaluate a model file on every set of `config`, adding a line to its run's results.jsonl for each.

    `model` names the configuration of a file that does not say its own. Everything is opened and checked
    before the first picture is read. Raises EvaluationError and CheckpointError.
    """
    sets = zero_shot_sets(config)
    if not sets:
        raise EvaluationError(
            "nothing to evaluate on: give --imagenet-val, --imagenet-v2, or --folder with --classes"
        )
    clip, about = _opened(checkpoint, device or ("cuda" if torch.cuda.is_available() else "cpu"), model)
    path = results_path(Path(about["checkpoint"]))
    lines = JsonLines(path, EvaluationError)
    lines.check()
    results, records = [], []
    measured = evaluate_sets(
        clip, sets, batch_size=config.batch_size, workers=config.workers, display=_display
    )
    for each, result in measured:
        record = zero_shot_record(result, each.classes, each.images, about)
        lines.append(record, durable=True)
        results.append(result)
        records.append(record)
    return Evaluation(tuple(results), tuple(records), path)


def evaluators(
    config: EvaluateConfig, validation: SampleSet | None = None, *, loss_batch: int = IMAGE_BATCH
) -> list[Evaluator]:
    """The trainer's evaluators: for `validation`, and for the sets of `config`. Raises EvaluationError.

    The validation's loss is that within batches of `loss_batch`.
    """
    sets = zero_shot_sets(config)
    settings: dict[str, Any] = {"batch_size": config.batch_size, "workers": config.workers}
    found = [evaluator(sets, **settings)] if sets else []
    if validation is not None:
        found.insert(0, validation_evaluator(validation, loss_batch, **settings))
    return found


def zero_shot_sets(config: EvaluateConfig) -> list[ZeroShotSet]:
    """Read class files and list pictures, all checked. Raises EvaluationError for what does not fit."""
    templates = read_templates(config.templates) if config.templates else None
    imagenet = imagenet_classes()
    imagenet = imagenet.with_templates(templates) if templates else imagenet
    sets = []
    if config.imagenet_val:
        images = imagenet_validation(
            config.imagenet_val, imagenet, labels=config.imagenet_labels, allow_subset=config.allow_subset
        )
        sets.append(ZeroShotSet(imagenet, images))
    if config.imagenet_v2:
        images = imagenet_v2(config.imagenet_v2, allow_subset=config.allow_subset)
        sets.append(ZeroShotSet(imagenet, images))
    if config.folder and config.classes:
        sets.append(_folder_set(config.folder, config.classes, templates, config.allow_subset))
    same = repeats(each.images.name for each in sets)
    if same:
        raise EvaluationError(
            f"two sets are called {listing(same)}, after the folder's name: rename the folder"
        )
    return sets


def _folder_set(
    folder: Path, class_file: Path, templates: tuple[str, ...] | None, allow_subset: bool
) -> ZeroShotSet:
    name = folder.resolve().name or "folder"
    classes: ClassSet = read_classes(class_file, name=name, templates=templates or DEFAULT_TEMPLATES)
    images = read_folder(folder, classes.folder_labels, name=name, allow_subset=allow_subset)
    return ZeroShotSet(classes, images)


def _opened(checkpoint: Path, device: str, model: str | None) -> tuple[Clip, dict[str, Any]]:
    # A run in training points its `latest` at another file at any time: follow the link once.
    path = resolved(checkpoint)
    digest = model_sha256(path)
    clip = load_model(path, device, model)
    about: dict[str, Any] = {"model": clip.config.name, "checkpoint": str(path), "checkpoint_sha256": digest}
    with suppress(CheckpointError):  # another format of model file: it says nothing about a run
        stored = load_checkpoint(path)
        about |= {"epoch": stored.epoch, "step": stored.step, "samples": stored.position}
    if model_sha256(path) != digest:
        raise CheckpointError(f"{path} was replaced while it was read: run the same command again")
    return clip, about


def _row(result: ZeroShotResult) -> tuple[Cell, ...]:
    low, high = result.top1_interval
    shares = (f"{result.top5:.2%}", f"{result.mean_per_class_recall:.2%}", f"{result.chance:.2%}")
    counts = (result.name, result.images, result.classes)
    return (
        *counts,
        f"{result.top1:.2%}",
        f"{low:.2%} - {high:.2%}",
        *shares,
        "a subset" if result.partial else "all",
    )


@contextmanager
def _display(title: str, total: int, unit: str) -> Iterator[Report]:
    with Progress(title, total=total, unit=unit) as progress:
        yield progress.update
