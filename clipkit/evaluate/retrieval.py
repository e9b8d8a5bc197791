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

RECALLS = (1, 5, 10)
_SCORES = 1 << 25  # in memory at a time


@dataclass(frozen=True)
class Recalls:
    """One direction: `recalls[i]` is the share of queries whose pair is among the first RECALLS[i] found.

    The best rank is 1; `median_rank` is rounded down, as OpenCLIP does.
    """

    recalls: tuple[float, ...]
    mean_rank: float
    median_rank: float

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
    images: Embedded, texts: Embedded, *, device: torch.device | None = None, ranks: Ranks = ALONE
) -> RetrievalResult:
    """Rank all captions for each picture, and all pictures for each caption, by the products of features.

    As in OpenCLIP, a query's only right answer is its own pair. What cannot be told apart, such as equal
    captions, ties, and is not sorted to the query's favour: with a targets above it, t tied ones, its own
    among them, have the mean rank a + (t + 1) / 2, and it is among the first k with the chance that a random
    order of the tied gives, (k − a) / t. So recall cannot reach 1 where captions repeat. A product that is
    not a number comes last.

    The products are computed on `device` in float32. All ranks call it together, each takes its share of the
    queries, and all get the same result. Memory does not grow with N but by the features of the different
    targets and some numbers a pair.
    """
    device = device or torch.device("cpu")
    with _exact_products():
        different_captions, image_to_text = _ranked(images, texts, device, ranks)
        different_images, text_to_image = _ranked(texts, images, device, ranks)
    return RetrievalResult(
        len(images.features_ND), different_images, different_captions, image_to_text, text_to_image
    )


def _ranked(queries: Embedded, targets: Embedded, device: torch.device, ranks: Ranks) -> tuple[int, Recalls]:
    """How many targets are different, and how the queries find theirs."""
    different = _Targets.of(targets, device)
    return len(different.counts_T), _recalls(queries.features_ND, different, ranks)


class _Targets(NamedTuple):
    """What is ranked: different ones once, how many pairs have each, and which one each pair has.

    Of equal inputs features may differ in their last digits, by the batch that they were computed in.
    """

    features_TD: Tensor
    counts_T: Tensor
    own_N: Tensor

    @classmethod
    def of(cls, embedded: Embedded, device: torch.device) -> Self:
        _, first_T, own_N, counts_T = np.unique(
            embedded.digests_NW, axis=0, return_index=True, return_inverse=True, return_counts=True
        )
        features_TD = embedded.features_ND[torch.from_numpy(first_T)]
        counts = torch.from_numpy(counts_T).float()  # exact up to 2²⁴ pairs, and their sums
        return cls(features_TD.to(device), counts.to(device), torch.from_numpy(own_N.reshape(-1)).to(device))


def _recalls(queries_ND: Tensor, targets: _Targets, ranks: Ranks) -> Recalls:
    count = len(queries_ND)
    places_2N = torch.zeros(2, count)  # how many targets are below each query's own, and how many tie with it
    for batch in own_batches(count, max(1, _SCORES // len(targets.counts_T)), ranks):
        rows = slice(batch.start, batch.stop)
        queries_BD = queries_ND[rows].to(targets.features_TD.device)
        scores_BT = queries_BD @ targets.features_TD.T
        own_B = scores_BT.gather(1, targets.own_N[rows, None])[:, 0]
        for row_N, placed_BT in zip(
            places_2N, (scores_BT < own_B[:, None], scores_BT == own_B[:, None]), strict=True
        ):
            row_N[rows] = (placed_BT.float() @ targets.counts_T).cpu()
    below_N, tied_N = ranks.total(places_2N).double()
    tied_N = tied_N.clamp(min=1)
    above_N = count - below_N - tied_N
    ranks_N = above_N + (tied_N + 1) / 2
    return Recalls(
        tuple(float(((k - above_N) / tied_N).clamp(0, 1).mean()) for k in RECALLS),
        mean_rank=float(ranks_N.mean()),
        median_rank=float(np.floor(np.median(ranks_N.numpy()))),
    )


@contextmanager
def _exact_products() -> Iterator[None]:
    # TensorFloat-32 has three decimals: it would tie what a model tells apart.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
