"""`clipkit evaluate`: open what was asked for, check all of it, evaluate, record."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from clipkit.errors import CheckpointError, EvaluationError
from clipkit.evaluate.agreement import check_same
from clipkit.evaluate.caption_sets import CaptionSet, caption_sets, retrieved
from clipkit.evaluate.classes import (
    DEFAULT_TEMPLATES,
    ClassSet,
    imagenet_classes,
    listing,
    read_classes,
    repeats,
)
from clipkit.evaluate.classifier_cache import ClassifierCache, device_name
from clipkit.evaluate.config import IMAGE_BATCH, EvaluateConfig
from clipkit.evaluate.evaluation import Evaluation
from clipkit.evaluate.head import Head, read_head
from clipkit.evaluate.imagenet import imagenet_v2, imagenet_validation
from clipkit.evaluate.outputs import check_outputs, results_lines
from clipkit.evaluate.ranks import ALONE, Ranks, first_text
from clipkit.evaluate.results import decoded_record, results_path, retrieval_record, zero_shot_record
from clipkit.evaluate.sets import Evaluator, ZeroShotSet, evaluate_sets, evaluator
from clipkit.evaluate.shard_images import name_of_set, read_labelled
from clipkit.evaluate.tables import Tables
from clipkit.evaluate.templates import templates_of
from clipkit.evaluate.validation import validation_evaluator
from clipkit.evaluate.zero_shot import Report
from clipkit.model.checkpoint import load_model, load_origin
from clipkit.model.clip import Clip
from clipkit.model.identity import model_sha256, resolved
from clipkit.progress import Progress
from clipkit.shards.sample_set import SampleSet


def evaluate(
    checkpoint: Path,
    config: EvaluateConfig,
    *,
    model: str | None = None,
    device: str | None = None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Evaluate a model file on every set of `config`, adding a line to its run's results.jsonl for each.

    `model` names the configuration of a file that does not say its own. A fine-tuned model's own head is its
    classifier for the classes that it was tuned to; the record's kind is then "fine-tuned". Everything is
    opened and checked before the first picture is read. All `ranks` call it together and get the same; the
    first one alone writes. Raises EvaluationError and CheckpointError, ConfigError for ranks that do not find
    the same.
    """
    sets, pairs = zero_shot_sets(config), caption_sets(config)
    _check_asked(config, sets, pairs)
    if ranks.rank == 0:
        check_outputs(config, sets, pairs, checkpoint)
    tables = Tables(config) if ranks.rank == 0 else None
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    clip, about, head = opened_model(checkpoint, device, model, ranks)
    path = config.results or results_path(Path(about["checkpoint"]))
    lines = results_lines(path, config) if ranks.rank == 0 else None
    check_same(config, about, sets, pairs, ranks)
    options = {"options": config.model_dump(mode="json", exclude_defaults=True)}
    scored, records = [], []
    measured = evaluate_sets(
        clip,
        sets,
        batch_size=config.batch_size,
        workers=config.workers,
        display=shown,
        ranks=ranks,
        head=head,
        cache=ClassifierCache(clip, about["checkpoint_sha256"]) if config.cache else None,
    )
    for each, result in measured:
        record = zero_shot_record(result, each.classes, each.images, about) | options
        if head is not None:
            record |= head.record(each.classes)
        records.append(decoded_record(record))
        if lines is not None and tables is not None:
            lines.append(records[-1], durable=True)
            tables.add(each, result)
        scored.append((each, result))
    found = []
    for data in pairs:
        found.append(retrieved(clip, data, config, display=shown, ranks=ranks))
        records.append(decoded_record(retrieval_record(found[-1], data, about) | options))
        if lines is not None:
            lines.append(records[-1], durable=True)
    files = tuple(tables.files) if tables is not None else ()
    return Evaluation(tuple(scored), tuple(records), path, files, tuple(found))


def _check_asked(config: EvaluateConfig, sets: list[ZeroShotSet], pairs: list[CaptionSet]) -> None:
    if not sets and (config.per_class or config.predictions):
        raise EvaluationError(
            "--per-class and --predictions are tables of classification: give a set of pictures with classes"
        )
    if not sets and not pairs:
        raise EvaluationError(
            "nothing to evaluate on: give --imagenet-val, --imagenet-v2, --folder with --classes, "
            "--val-shards or --val-csv"
        )


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
    templates = templates_of(config.templates) if config.templates else None
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
    name = name_of_set(folder)
    classes: ClassSet = read_classes(class_file, name=name, templates=templates or DEFAULT_TEMPLATES)
    images = read_labelled(folder, classes, name=name, allow_subset=allow_subset)
    return ZeroShotSet(classes, images)


def opened_model(
    checkpoint: Path, device: str, model: str | None, ranks: Ranks = ALONE
) -> tuple[Clip, dict[str, Any], Head | None]:
    """Open a model of any format; return it, what a record says of it, and the head of a fine-tuned one.

    All `ranks` call it together, and open what `checkpoint` is to the first one. Raises CheckpointError as
    `load_model` does, and for a file that is replaced meanwhile.
    """
    # A run in training points its `latest` at another file at any time: follow the link once, for all ranks.
    path = resolved(checkpoint)
    first = Path(first_text(str(path), ranks))
    path = first if first.exists() else path  # another machine may have a released model elsewhere
    digest = model_sha256(path)
    clip = load_model(path, device, model)
    about: dict[str, Any] = {"model": clip.config.name, "checkpoint": str(path), "checkpoint_sha256": digest}
    about |= {
        "device": device_name(clip.logit_scale.device),
        "precision": str(clip.dtype).removeprefix("torch."),
    }
    extra: dict[str, Any] = {}
    with suppress(CheckpointError):  # another format of model file: it says nothing about a run
        stored = load_origin(path)
        about |= {"epoch": stored.epoch, "step": stored.step, "samples": stored.position}
        extra = stored.extra
    if model_sha256(path) != digest:
        raise CheckpointError(f"{path} was replaced while it was read: run the same command again")
    return clip, about, read_head(extra, clip.config, path)


@contextmanager
def shown(title: str, total: int, unit: str) -> Iterator[Report]:
    """Show how far a piece of an evaluation is."""
    with Progress(title, total=total, unit=unit) as progress:
        yield progress.update
        progress.update(total)  # the last batch may have been another process's
