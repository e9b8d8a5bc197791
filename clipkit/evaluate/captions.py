"""Retrieval where pictures have several captions, as COCO's and Flickr30k's have five.

Shapes: N pairs, K different pictures, T different captions, B pictures at a time, V their pairs, D embedding.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from clipkit.evaluate.ranks import ALONE, Ranks, own_batches
from clipkit.evaluate.retrieval import (
    RECALLS,
    SCORES,
    Embedded,
    Recalls,
    Targets,
    exact_products,
    places,
    recalls,
)
from clipkit.evaluate.zero_shot import Report, silent


@dataclass(frozen=True)
class CaptionsResult:
    """What one model found among so many different pictures and all their captions.

    `image_to_text`: a picture finds one of its captions; `text_to_image`: a caption finds its picture.
    """

    images: int
    captions: int
    image_to_text: Recalls
    text_to_image: Recalls

    def figures(self) -> Iterator[tuple[str, float]]:
        """CLIP_benchmark's names of the recalls, and their values."""
        for name, found in (("text", self.image_to_text), ("image", self.text_to_image)):
            for k, recall in zip(RECALLS, found.recalls, strict=True):
                yield f"{name}_retrieval_recall@{k}", recall


def captions_retrieval(
    images: Embedded,
    texts: Embedded,
    *,
    device: torch.device | None = None,
    ranks: Ranks = ALONE,
    report: Report = silent,
) -> CaptionsResult:
    """Rank all captions for each different picture, and all different pictures for each caption.

    Pairs of equal pictures are one picture with several captions. As CLIP_benchmark defines it, a picture
    has found if any of its captions is among the first k, and a caption if its picture is. Equal captions of
    several pictures are as many captions, which tie. Ties, what is not a number, memory and ranks are treated
    as in `retrieval`; `report` hears how many of K + N queries are done.
    """
    device = device or torch.device("cpu")
    with exact_products():
        pictures, captions = Targets.of(images, device), Targets.of(texts, device)
        count = len(pictures.counts_T)
        image_to_text = _any_of(pictures, captions, ranks, report)
        del captions
        once = pictures._replace(counts_T=torch.ones_like(pictures.counts_T))
        text_to_image = recalls(texts.features_ND, once, ranks, lambda done: report(count + done))
    return CaptionsResult(count, len(texts.features_ND), image_to_text, text_to_image)


def _any_of(pictures: Targets, captions: Targets, ranks: Ranks, report: Report) -> Recalls:
    """How each picture finds the first of its captions."""
    device, count = captions.own_N.device, len(pictures.counts_T)
    by_picture_N = pictures.own_N.argsort(stable=True)
    of_N, owned_N = pictures.own_N[by_picture_N], captions.own_N[by_picture_N]
    ends = [0, *pictures.counts_T.long().cumsum(0).tolist()]
    places_3K = torch.zeros(3, count)  # below the best of its own; tied with it; tied, and its own
    for batch in own_batches(count, max(1, SCORES // len(captions.counts_T)), ranks):
        rows, pairs = slice(batch.start, batch.stop), slice(ends[batch.start], ends[batch.stop])
        scores_BT = pictures.features_TD[rows] @ captions.features_TD.T
        of_V = of_N[pairs] - batch.start
        own_V = scores_BT[of_V, owned_N[pairs]]
        own_V = own_V.masked_fill(own_V.isnan(), -torch.inf)
        best_B = torch.full((len(batch),), -torch.inf, device=device).scatter_reduce(0, of_V, own_V, "amax")
        places_3K[:2, rows] = places(scores_BT, best_B, captions)
        best_V = (own_V == best_B[of_V]).float()
        places_3K[2, rows] = torch.zeros_like(best_B).index_add(0, of_V, best_V).cpu()
        report(batch.stop)
    below_K, tied_K, own_K = ranks.total(places_3K).double()
    tied_K = tied_K.clamp(min=1)
    return Recalls.of(len(of_N) - below_K - tied_K, tied_K, own_K)
