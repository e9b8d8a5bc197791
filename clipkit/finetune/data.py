"""What a fine-tuning reads: the pictures to learn from, the in-distribution set and the shifted ones."""

from dataclasses import dataclass, replace
from pathlib import Path

from clipkit.errors import EvaluationError
from clipkit.evaluate.classes import (
    DEFAULT_TEMPLATES,
    ClassSet,
    imagenet_classes,
    listing,
    read_classes,
    repeats,
)
from clipkit.evaluate.config import EvaluateConfig
from clipkit.evaluate.imagenet import V2_NAME
from clipkit.evaluate.images import LabelledImages
from clipkit.evaluate.run import zero_shot_sets
from clipkit.evaluate.shard_images import name_of_set, read_labelled
from clipkit.evaluate.templates import templates_of
from clipkit.finetune.config import FinetuneConfig
from clipkit.finetune.samples import held_out
from clipkit.locations import decoded


@dataclass(frozen=True)
class Data:
    """The classes, the pictures to learn from, and the sets to measure on, all labelled by those classes.

    `is_held_out` tells that the in-distribution set are pictures of the same folder; `reference` names the
    shifted set that is ImageNetV2 beside ImageNet's own validation pictures, if there is one.
    """

    classes: ClassSet
    train: LabelledImages
    in_distribution: LabelledImages
    shifted: tuple[LabelledImages, ...]
    is_held_out: bool
    reference: str | None


def read_data(config: FinetuneConfig) -> Data:
    """List and check all pictures before any is read. Raises EvaluationError for what does not fit.

    The in-distribution set is `val_folder`, else `imagenet_val`, else the share of `folder` that is held out;
    what else is given is shifted.
    """
    _refuse_the_training_set(config)
    classes = _classes(config)
    if len(classes) < 2:
        raise EvaluationError(
            f"{config.classes}: expected classes to tell apart, found one: name two or more"
        )
    try:
        train = _folder(config.folder, classes, config)
    except EvaluationError as error:
        if config.classes is not None:
            raise
        raise EvaluationError(f"{error}; without --classes they are ImageNet's") from None
    imagenet, imagenet_v2 = (
        _imagenet(EvaluateConfig(**given, allow_subset=config.allow_subset), classes, config.classes)
        for given in (
            {"imagenet_val": config.imagenet_val, "imagenet_labels": config.imagenet_labels},
            {"imagenet_v2": config.imagenet_v2},
        )
    )
    named = _folder(config.val_folder, classes, config) if config.val_folder else None
    validation = named or imagenet
    shifted = [each for each in (imagenet, imagenet_v2) if each is not None and each is not validation]
    shifted += [_folder(each, classes, config) for each in config.shifted or ()]
    is_held_out = validation is None
    if validation is None:
        train, validation = held_out(train, config.val_share)
        if not len(validation):
            raise EvaluationError(
                f"{config.folder}: one picture a class, none of which can be held out: give --val-folder"
            )
        validation = replace(validation, name=f"{validation.name}-held-out")
    validation, *shifted = _told_apart([validation, *shifted])
    is_reference = (
        any(each is imagenet_v2 for each in shifted)
        and imagenet_v2 is not None
        and imagenet_v2.name == V2_NAME
        and not is_held_out
    )
    return Data(classes, train, validation, tuple(shifted), is_held_out, V2_NAME if is_reference else None)


def _refuse_the_training_set(config: FinetuneConfig) -> None:
    """Raise EvaluationError where a set to measure on is the folder to learn from, or is given twice."""
    taken = {config.folder.resolve(): "--folder, which is trained on"}
    given = [("--val-folder", config.val_folder), ("--imagenet-val", config.imagenet_val)]
    given += [("--imagenet-v2", config.imagenet_v2), *(("--shifted", each) for each in config.shifted or ())]
    for option, path in given:
        if path is None:
            continue
        if path.resolve() in taken:
            raise EvaluationError(
                f"{option} {path}: expected other pictures, found those of {taken[path.resolve()]}"
            )
        taken[path.resolve()] = option


def _told_apart(sets: list[LabelledImages]) -> list[LabelledImages]:
    """Put the names of the folders above before the names that several sets have, until all differ."""
    depth = 0
    while same := repeats(each.name for each in sets):
        depth += 1
        above = [each.root.resolve().parents for each in sets]
        if all(depth >= len(parents) for parents in above):
            raise EvaluationError(f"two sets are called {listing(same)}: rename the folder of one")
        sets = [
            replace(each, name=f"{decoded(parents[depth - 1].name)}-{each.name}")
            if each.name in same and depth < len(parents)
            else each
            for each, parents in zip(sets, above, strict=True)
        ]
    return sets


def _classes(config: FinetuneConfig) -> ClassSet:
    templates = templates_of(config.templates) if config.templates else None
    if config.classes is None:
        classes = imagenet_classes()
        return classes.with_templates(templates) if templates else classes
    return read_classes(
        config.classes, name=name_of_set(config.folder), templates=templates or DEFAULT_TEMPLATES
    )


def _folder(folder: Path, classes: ClassSet, config: FinetuneConfig) -> LabelledImages:
    return read_labelled(folder, classes, name=name_of_set(folder), allow_subset=config.allow_subset)


def _imagenet(wanted: EvaluateConfig, classes: ClassSet, class_file: Path | None) -> LabelledImages | None:
    if wanted.imagenet_val is None and wanted.imagenet_v2 is None:
        return None
    if classes.folders != imagenet_classes().folders:
        option = "--imagenet-val" if wanted.imagenet_val else "--imagenet-v2"
        raise EvaluationError(
            f"{option}: expected ImageNet's 1,000 classes in the order of their wnids, found "
            f"{len(classes):,} others in {class_file}: leave out --classes to fine-tune to ImageNet's, or "
            "give --shifted"
        )
    (found,) = zero_shot_sets(wanted)
    return found.images
