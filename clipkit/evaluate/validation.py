"""What a trainer watches on a validation set: the contrastive loss, and retrieval.

Shapes: N pairs, B batch, K rows of it at a time, D embedding.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from clipkit.evaluate.config import IMAGE_BATCH
from clipkit.evaluate.pairs import embedded_pairs
from clipkit.evaluate.ranks import ALONE, Ranks
from clipkit.evaluate.retrieval import retrieval
from clipkit.evaluate.sets import Evaluator
from clipkit.model.clip import Clip
from clipkit.shards.sample_set import SampleSet

_ROWS = 1024


def contrastive_loss(
    images_ND: Tensor,
    texts_ND: Tensor,
    logit_scale: float,
    batch_size: int,
    *,
    device: torch.device | None = None,
    ranks: Ranks = ALONE,
) -> float:
    """CLIP's symmetric cross-entropy within batches of `batch_size` pairs, as OpenCLIP's `clip_val_loss`.

    The batches are cut from the pairs in their order. Each is a problem of its own and counts as often as it
    has pairs; the last one may be shorter, which makes it easier. Guessing has the loss ln(batch_size). The
    features are float32 of length 1, `logit_scale` is exponentiated. All ranks call it together, each takes
    its share of the batches, and all get the same.
    """
    count = len(images_ND)
    sums_K = torch.zeros(-(-count // batch_size), dtype=torch.float64)
    for number in range(ranks.rank, len(sums_K), ranks.size):
        rows = slice(number * batch_size, (number + 1) * batch_size)
        images_BD, texts_BD = (each[rows].to(device) for each in (images_ND, texts_ND))
        of_images = _cross_entropy(images_BD, texts_BD, logit_scale)
        of_texts = _cross_entropy(texts_BD, images_BD, logit_scale)
        sums_K[number] = (of_images + of_texts) / 2
    return float(ranks.total(sums_K).sum()) / count


def _cross_entropy(queries_BD: Tensor, targets_BD: Tensor, logit_scale: float) -> float:
    """Sum over the queries, with a part of the logits in memory at a time."""
    total = 0.0
    for start in range(0, len(queries_BD), _ROWS):
        logits_KB = logit_scale * queries_BD[start : start + _ROWS] @ targets_BD.T
        labels_K = torch.arange(start, start + len(logits_KB), device=logits_KB.device)
        total += float(F.cross_entropy(logits_KB, labels_K, reduction="sum"))
    return total


def validation_evaluator(
    samples: SampleSet, loss_batch: int, *, batch_size: int = IMAGE_BATCH, workers: int | None = None
) -> Evaluator:
    """A callable for the trainer: `clip_val_loss` within batches of `loss_batch`, and retrieval among all.

    The figures' names are OpenCLIP's, such as `image_to_text_R@1` and `num_samples`, the pairs read. Samples
    that cannot be read are told once, and left out. All ranks call it together.
    """
    told: set[str] = set()

    def figures(model: Clip, ranks: Ranks) -> Iterator[tuple[str, float]]:
        pairs = embedded_pairs(model, samples, batch_size=batch_size, workers=workers, ranks=ranks)
        for each in pairs.unreadable:
            if each not in told:
                ranks.say(f"left out of the validation: {each}")
                told.add(each)
        device = model.logit_scale.device
        scale = model.logit_scale.exp().item()
        features = pairs.images.features_ND, pairs.texts.features_ND
        yield "clip_val_loss", contrastive_loss(*features, scale, loss_batch, device=device, ranks=ranks)
        yield from retrieval(pairs.images, pairs.texts, device=device, ranks=ranks).figures()
        yield "num_samples", len(pairs.images.features_ND)

    return figures
