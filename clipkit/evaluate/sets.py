"""The sets that a model is evaluated on, and the evaluator that a trainer is handed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import torch

from clipkit.errors import tell
from clipkit.evaluate.classes import ClassSet
from clipkit.evaluate.classifier_cache import ClassifierCache
from clipkit.evaluate.config import IMAGE_BATCH
from clipkit.evaluate.head import Head
from clipkit.evaluate.images import LabelledImages
from clipkit.evaluate.ranks import ALONE, Ranks, first_tensor
from clipkit.evaluate.results import metric_name
from clipkit.evaluate.zero_shot import (
    Report,
    ZeroShotResult,
    build_classifier,
    classify,
    silent,
)
from clipkit.model.clip import Clip
from clipkit.model.tokenizer import Tokenizer
from clipkit.processes import give_back_freed_memory

Evaluator: TypeAlias = Callable[[Clip, Ranks], Iterable[tuple[str, float]]]
Display: TypeAlias = Callable[[str, int, str], AbstractContextManager[Report]]
"""Opens a progress display for a title, a total and its unit."""


@dataclass(frozen=True)
class ZeroShotSet:
    """Pictures, and the classes that they are told apart by."""

    classes: ClassSet
    images: LabelledImages


def no_display(title: str, total: int, unit: str) -> AbstractContextManager[Report]:
    """The display that shows nothing."""
    return nullcontext(silent)


def evaluate_sets(
    model: Clip,
    sets: Sequence[ZeroShotSet],
    *,
    batch_size: int = IMAGE_BATCH,
    workers: int | None = None,
    display: Display = no_display,
    ranks: Ranks = ALONE,
    head: Head | None = None,
    cache: ClassifierCache | None = None,
) -> Iterator[tuple[ZeroShotSet, ZeroShotResult]]:
    """Evaluate `model` zero-shot on one set after the other; sets of the same classes share one classifier.

    A fine-tuned model's `head` is the classifier for sets of its classes, in place of the prompts; a line on
    standard error tells of the others. What `cache` holds is not computed again, and what is computed is put
    there: the first rank's, for all.
    All `ranks` call it together. The model computes in evaluation mode and is left in the mode it was in.
    Raises EvaluationError as `classify` does.
    """
    tokenize = Tokenizer(model.context_length)
    classifiers: dict[tuple[str, str], torch.Tensor] = {}
    for each in sets:
        classes, images = each.classes, each.images
        key = (classes.names_sha256, classes.templates_sha256)
        if head is not None and (tuned := head.weights_for(classes)) is not None:
            classifiers[key] = tuned.to(model.logit_scale.device)
        elif head is not None and ranks.rank == 0:
            tell(f"{images.name}: told apart by prompts, not by the model's head: {head.difference(classes)}")
        if key not in classifiers and cache is not None:
            kept = _kept(cache, model, classes, ranks)
            classifiers |= {} if kept is None else {key: kept}
        if key not in classifiers:
            with display(f"{classes.name} classifier", classes.prompt_count, "prompts") as report:
                classifiers[key] = build_classifier(model, tokenize, classes, report=report, ranks=ranks)
            give_back_freed_memory()  # pictures come in other sizes than prompts
            if cache is not None and ranks.rank == 0:
                cache.keep(classes, classifiers[key])
        with display(images.name, len(images), "images") as report:
            result = classify(
                model,
                classifiers[key],
                images,
                batch_size=batch_size,
                workers=workers,
                report=report,
                ranks=ranks,
            )
        yield each, result


def _kept(cache: ClassifierCache, model: Clip, classes: ClassSet, ranks: Ranks) -> torch.Tensor | None:
    """What the first process's cache has for these classes, the same in all; all call it together."""
    kept = cache.find(classes) if ranks.rank == 0 else None
    if not first_tensor(torch.tensor(kept is not None, dtype=torch.uint8), ranks):
        return None
    own = torch.zeros(model.config.embed_dim, len(classes)) if kept is None else kept.cpu()
    return first_tensor(own, ranks).to(model.logit_scale.device)


def evaluator(
    sets: Sequence[ZeroShotSet], *, batch_size: int = IMAGE_BATCH, workers: int | None = None
) -> Evaluator:
    """A callable for the trainer: its figures `NAME-zeroshot-val-top1`, `-top5` (as OpenCLIP's), `-chance`.

    All ranks call it together.
    """

    def figures(model: Clip, ranks: Ranks) -> Iterator[tuple[str, float]]:
        for _, result in evaluate_sets(model, sets, batch_size=batch_size, workers=workers, ranks=ranks):
            for figure in ("top1", "top5", "chance"):
                yield metric_name(result.name, figure), getattr(result, figure)

    return figures
