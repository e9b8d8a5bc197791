"""Zero-shot classification as in the CLIP paper (Radford et al. 2021, arXiv 2103.00020, section 3.1).

Shapes: B batch, C channels, H height, W width, L tokens, D embedding, N classes, T prompts.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from clipkit.errors import EvaluationError
from clipkit.evaluate.classes import ClassSet, listing
from clipkit.evaluate.config import IMAGE_BATCH
from clipkit.evaluate.decode import SHA256_BYTES, Unreadable, decoded_batches
from clipkit.evaluate.images import LabelledImages
from clipkit.evaluate.per_class import ClassScore, class_scores
from clipkit.evaluate.predictions import Gathered, Predictions
from clipkit.evaluate.ranks import ALONE, Ranks, all_numbered, own_batches
from clipkit.evaluate.trend import NORMAL_95
from clipkit.locations import decoded
from clipkit.model.clip import Clip, without_padding
from clipkit.model.preprocess import EvalTransform, normalize
from clipkit.shards.bad_samples import MAX_BAD

Tokenize: TypeAlias = Callable[[list[str]], npt.NDArray[np.int64]]
Report: TypeAlias = Callable[[int], None]

PROMPT_BATCH = 256
_EXACT = 2.0**-40


@dataclass(frozen=True)
class ZeroShotResult:
    """What one model scored on one set; shares are in 0…1.

    `images` counts the pictures that were read and classified, `unreadable` names those that were not;
    `classes` is N, `classes_with_images` how many of them had pictures. `top1_interval` is Wilson's 95%
    interval of `top1`. `top1_correct` and `top5_correct` are sums over the pictures, in which a tie adds a
    fraction (see `hits`). `files_sha256` is that of a line for each picture of the set, in order: its label,
    a tab, its path below the set's folder or in its archive, a tab, the SHA-256 of its bytes as they were
    read (zeros: they could not be), in hex. `class_scores` are those of the classes with pictures,
    `predictions` what they come from.
    """

    name: str
    images: int
    classes: int
    classes_with_images: int
    partial: bool
    top1: float
    top5: float
    mean_per_class_recall: float
    top1_interval: tuple[float, float]
    top1_correct: float
    top5_correct: float
    unreadable: tuple[str, ...]
    files_sha256: str
    class_scores: tuple[ClassScore, ...]
    predictions: Predictions = field(compare=False, repr=False)

    @property
    def chance(self) -> float:
        """The top-1 of guessing: 1 / N."""
        return 1 / self.classes


def silent(done: int) -> None:
    """Show nothing: the `report` of those who did not ask for one."""


def build_classifier(
    model: Clip,
    tokenize: Tokenize,
    class_set: ClassSet,
    *,
    batch_size: int = PROMPT_BATCH,
    report: Report = silent,
    ranks: Ranks = ALONE,
) -> torch.Tensor:
    """The zero-shot classifier's weights, float32 (D, N) on the model's device, each column of length 1.

    Column n is the mean of the normalised embeddings of class n's prompts, normalised. Prompts are encoded
    `batch_size` at a time across classes, those of similar length together, the batches shared by all
    `ranks`; `report` hears how many prompts are done.
    """
    prompts, labels = class_set.prompts()
    tokens_TL = torch.from_numpy(tokenize(prompts))
    labels_T = torch.tensor(labels)
    sums_ND = torch.zeros(len(class_set), model.config.embed_dim, dtype=torch.float64)
    # The text tower leaves out the padding after the longest prompt of a batch.
    by_length_T = tokens_TL.argmax(dim=1).argsort(stable=True)
    for batch in own_batches(len(prompts), batch_size, ranks):
        rows = by_length_T[batch.start : batch.stop]
        features_BD = text_features(model, tokens_TL[rows]).cpu().double()
        sums_ND.index_add_(0, labels_T[rows], exact_steps(features_BD))
        report(batch.stop)
    sums_ND = ranks.total(sums_ND)
    return F.normalize(sums_ND, dim=1).float().T.contiguous().to(_device(model))


def classify(
    model: Clip,
    classifier_DN: torch.Tensor,
    images: LabelledImages,
    *,
    batch_size: int = IMAGE_BATCH,
    workers: int | None = None,
    report: Report = silent,
    ranks: Ranks = ALONE,
) -> ZeroShotResult:
    """Classify every picture by the column of `classifier_DN` that is nearest to its embedding.

    All `ranks` call it together and get the same result; each reads its share of the pictures, and `report`
    hears how far it is. Raises EvaluationError, naming them, if more than 0.1% of the pictures proved
    unreadable; fewer are left out of every count and named in the result.
    """
    gathered = Gathered(torch.tensor(images.labels), classifier_DN.shape[1])
    sha256_K = torch.zeros(len(images), SHA256_BYTES, dtype=torch.uint8)
    unreadable: list[Unreadable] = []
    transform = EvalTransform(model.config.image_size)
    for batch in decoded_batches(
        images.pictures, transform, batch_size=batch_size, workers=workers, ranks=ranks
    ):
        sha256_K[batch.indices_B] = batch.sha256_B
        for row in batch.unreadable:
            sha256_K[row.index] = torch.from_numpy(row.sha256.copy())
        unreadable.extend(batch.unreadable)
        if len(unreadable) > MAX_BAD * len(images):
            break
        if len(batch.indices_B):
            gathered.add(batch.indices_B, image_features(model, batch.images_BCHW) @ classifier_DN)
        report(batch.end)
    missing = _all_unreadable(images, unreadable, ranks)
    predictions = gathered.total(missing, ranks)
    return _result(images, classifier_DN.shape[1], predictions, missing, ranks.total(sha256_K).numpy())


@torch.no_grad()
def image_features(model: Clip, images_BCHW: torch.Tensor) -> torch.Tensor:
    """Normalised float32 embeddings (B, D) of uint8 pictures, on the model's device."""
    with _evaluating(model):
        features_BD = model.encode_image(normalize(images_BCHW.to(_device(model)), dtype=model.dtype))
    return F.normalize(features_BD.float(), dim=1)


@torch.no_grad()
def text_features(model: Clip, tokens_BL: torch.Tensor) -> torch.Tensor:
    """Normalised float32 embeddings (B, D) of tokens, on the model's device."""
    with _evaluating(model):
        features_BD = model.encode_text(without_padding(tokens_BL).to(_device(model)))
    return F.normalize(features_BD.float(), dim=1)


def exact_steps(values: torch.Tensor) -> torch.Tensor:
    """Values of float64 within ±1 in multiples of 2⁻⁴⁰: sums of 8,192 are exact, in any order."""
    return (values / _EXACT).round() * _EXACT


def wilson_interval(correct: float, count: int) -> tuple[float, float]:
    """Wilson's 95% confidence interval for the share `correct / count` (Wilson 1927)."""
    z2 = NORMAL_95**2
    share = correct / count
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def _files_sha256(images: LabelledImages, sha256_K: npt.NDArray[np.uint8]) -> str:
    digest = hashlib.sha256()
    for name, label, sha256 in zip(images.pictures.names, images.labels, sha256_K, strict=True):
        digest.update(os.fsencode(f"{label}\t{name}\t{sha256.tobytes().hex()}\n"))
    return digest.hexdigest()


def _result(
    images: LabelledImages,
    classes: int,
    predictions: Predictions,
    unreadable: list[int],
    sha256_K: npt.NDArray[np.uint8],
) -> ZeroShotResult:
    scores = class_scores(predictions)
    count = sum(each.images for each in scores)
    top1_correct, top5_correct = (float(row[predictions.read_K].sum()) for row in predictions.hits_2K)
    return ZeroShotResult(
        name=images.name,
        images=count,
        classes=classes,
        classes_with_images=len(scores),
        partial=images.partial,
        top1=top1_correct / count,
        top5=top5_correct / count,
        mean_per_class_recall=float(np.mean([each.top1 for each in scores])),
        top1_interval=wilson_interval(top1_correct, count),
        top1_correct=top1_correct,
        top5_correct=top5_correct,
        unreadable=tuple(decoded(images.pictures.place(place)) for place in unreadable),
        files_sha256=_files_sha256(images, sha256_K),
        class_scores=scores,
        predictions=predictions,
    )


def _all_unreadable(images: LabelledImages, own: list[Unreadable], ranks: Ranks) -> list[int]:
    """The places of the pictures that any process could not read. Raises EvaluationError for too many."""
    found = all_numbered([(row.index, row.reason) for row in own], ranks)
    if len(found) > MAX_BAD * len(images):
        first = next(iter(found.values()))
        raise EvaluationError(
            f"{images.root}: more than {MAX_BAD:.1%} of {len(images):,} pictures cannot be read: "
            f"{listing(map(images.pictures.place, found))} ({first}); replace or remove them"
        )
    return list(found)


@contextmanager
def _evaluating(model: Clip) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _device(model: Clip) -> torch.device:
    return next(model.parameters()).device
