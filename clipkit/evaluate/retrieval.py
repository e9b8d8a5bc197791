"""Retrieval of captions by pictures and of pictures by captions, among the pairs of a data set.

Shapes: N pairs, T different targets, B queries at a time, D embedding, W words of a digest (two).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipkit.evaluate.ranks import ALONE, Ranks, own_batches
from clipkit.evaluate.zero_shot import Report, silent

RECALLS = (1, 5, 10)
SCORES = 1 << 23
"""So many products of features are in memory at a time."""


@dataclass(frozen=True)
class Recalls:
    """One direction: `recalls[i]` is the share of queries with a right answer among the first RECALLS[i].

    The ranks are those of the first right answer, the best being 1; `median_rank` is rounded down, as
    OpenCLIP does.
    """

    recalls: tuple[float, ...]
    mean_rank: float
    median_rank: float

    @classmethod
    def of(cls, above_N: Tensor, tied_N: Tensor, own_N: Tensor) -> Self:
        """What follows for N queries with so many targets above their best right answers, and tied at these.

        `own_N` of the tied are right. All are whole numbers as float64. Those that tie have all orders alike:
        the chance of a right one among the first k is 1 − C(t − m, k − a) / C(t, k − a), the expected place
        of the first a + (t + 1) / (m + 1).
        """
        tied_N = tied_N.clamp(min=1)
        above_N, own_N = above_N.clamp(min=0), own_N.clamp(min=1).minimum(tied_N)
        missed_N, recalls = torch.ones_like(tied_N), {}
        for k in range(1, RECALLS[-1] + 1):
            place_N = k - 1 - above_N  # the k-th found is this one of the tied, from 0
            miss_N = ((tied_N - own_N - place_N) / (tied_N - place_N).clamp(min=1)).clamp(0, 1)
            missed_N = torch.where((place_N >= 0) & (place_N < tied_N), missed_N * miss_N, missed_N)
            found_N = torch.where(own_N == 1, ((k - above_N) / tied_N).clamp(0, 1), 1 - missed_N)
            recalls[k] = float(found_N.mean())
        ranks_N = above_N + (tied_N + 1) / (own_N + 1)
        return cls(
            tuple(recalls[k] for k in RECALLS),
            mean_rank=float(ranks_N.mean()),
            median_rank=float(np.floor(np.median(ranks_N.numpy()))),
        )

    def figures(self, direction: str) -> Iterator[tuple[str, float]]:
        """OpenCLIP's names of them, and their values."""
        for k, recall in zip(RECALLS, self.recalls, strict=True):
            yield f"{direction}_R@{k}", recall
        yield f"{direction}_mean_rank", self.mean_rank
        yield f"{direction}_median_rank", self.median_rank


@dataclass(frozen=True)
class RetrievalResult:
    """What one model found among `pairs` pictures and captions, so many of which are different ones."""

    pairs: int
    different_images: int
    different_captions: int
    image_to_text: Recalls
    text_to_image: Recalls

    def figures(self) -> Iterator[tuple[str, float]]:
        """OpenCLIP's names of them, and their values."""
        yield from self.image_to_text.figures("image_to_text")
        yield from self.text_to_image.figures("text_to_image")


class Embedded(NamedTuple):
    """The pictures or the captions of N pairs as a model sees them.

    `features_ND` are float32, of length 1, on the CPU; rows of equal `digests_NW` (int64) were made of equal
    inputs.
    """

    features_ND: Tensor
    digests_NW: npt.NDArray[np.int64]


def retrieval(
    images: Embedded,
    texts: Embedded,
    *,
    device: torch.device | None = None,
    ranks: Ranks = ALONE,
    report: Report = silent,
) -> RetrievalResult:
    """Rank all captions for each picture, and all pictures for each caption, by the products of features.

    As in OpenCLIP, a query's only right answer is its own pair. What cannot be told apart, such as equal
    captions, ties, and is not sorted to the query's favour: with a targets above it, t tied ones, its own
    among them, have the mean rank a + (t + 1) / 2, and it is among the first k with the chance that a random
    order of the tied gives, (k − a) / t. So recall cannot reach 1 where captions repeat. A product that is
    not a number comes last.

    The products are computed on `device` in float32. All ranks call it together, each takes its share of the
    queries, and all get the same result; `report` hears how many of 2 N are done. Memory does not grow with N
    but by the features of the different targets and some numbers a pair.
    """
    device = device or torch.device("cpu")
    count = len(images.features_ND)
    with exact_products():
        captions = Targets.of(texts, device)
        image_to_text = recalls(images.features_ND, captions, ranks, report)
        different_captions = len(captions.counts_T)
        del captions  # its features, before those of the pictures are copied
        pictures = Targets.of(images, device)
        text_to_image = recalls(texts.features_ND, pictures, ranks, lambda done: report(count + done))
    return RetrievalResult(count, len(pictures.counts_T), different_captions, image_to_text, text_to_image)


class Targets(NamedTuple):
    """What is ranked: different ones once, how many pairs have each, and which one each pair has.

    Of equal inputs features may differ in their last digits, by the batch that they were computed in.
    """

    features_TD: Tensor
    counts_T: Tensor
    own_N: Tensor

    @classmethod
    def of(cls, embedded: Embedded, device: torch.device) -> Self:
        """Find what is different among the pictures or captions of pairs."""
        _, first_T, own_N, counts_T = np.unique(
            embedded.digests_NW, axis=0, return_index=True, return_inverse=True, return_counts=True
        )
        features_TD = embedded.features_ND[torch.from_numpy(first_T)]
        counts = torch.from_numpy(counts_T).float()  # exact up to 2²⁴ pairs, and their sums
        return cls(features_TD.to(device), counts.to(device), torch.from_numpy(own_N.reshape(-1)).to(device))


def recalls(queries_ND: Tensor, targets: Targets, ranks: Ranks, report: Report) -> Recalls:
    """Rank the targets for queries, of which the n-th has one right answer, `targets.own_N[n]`."""
    count = len(queries_ND)
    places_2N = torch.zeros(2, count)  # how many targets are below each query's own, and how many tie with it
    for batch in own_batches(count, max(1, SCORES // len(targets.counts_T)), ranks):
        rows = slice(batch.start, batch.stop)
        queries_BD = queries_ND[rows].to(targets.features_TD.device)
        scores_BT = queries_BD @ targets.features_TD.T
        own_B = scores_BT.gather(1, targets.own_N[rows, None])[:, 0]
        places_2N[:, rows] = places(scores_BT, own_B, targets)
        report(batch.stop)
    below_N, tied_N = ranks.total(places_2N).double()
    tied_N = tied_N.clamp(min=1)  # a product that is no number: even its own target does not tie with it
    total = float(targets.counts_T.double().sum())
    return Recalls.of(total - below_N - tied_N, tied_N, torch.ones_like(tied_N))


def places(scores_BT: Tensor, own_B: Tensor, targets: Targets) -> Tensor:
    """How many pairs' targets score less than each query's own, and how many as much: (2, B), on the CPU."""
    placed = (scores_BT < own_B[:, None], scores_BT == own_B[:, None])
    return torch.stack([(placed_BT.float() @ targets.counts_T).cpu() for placed_BT in placed])


@contextmanager
def exact_products() -> Iterator[None]:
    """Let products of float32 be those of float32."""
    # TensorFloat-32 has three decimals: it would tie what a model tells apart.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
