"""What a classifier predicted for each picture of a set, gathered from all ranks.

Shapes: B batch, K pictures of the set, N classes, T predictions kept a picture (five, or N if there are
fewer).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipkit.evaluate.ranks import Ranks

KEPT = 5


@dataclass(frozen=True, eq=False)
class Predictions:
    """Row k is of the set's k-th picture; those that were not `read_K` hold nothing.

    `top_KT` are the nearest classes, the nearest first (int64); `similarity_K` (float32) is the cosine of the
    picture and the nearest class, `label_similarity_K` that with the class it belongs to; `hits_2K` (float64)
    are its top-1 and top-5 (see `hits`).
    """

    labels_K: npt.NDArray[np.int64]
    read_K: npt.NDArray[np.bool_]
    hits_2K: npt.NDArray[np.float64]
    top_KT: npt.NDArray[np.int64]
    similarity_K: npt.NDArray[np.float32]
    label_similarity_K: npt.NDArray[np.float32]


class Gathered:
    """What this rank has classified so far, of a set of pictures with these labels."""

    def __init__(self, labels_K: Tensor, classes: int) -> None:
        count = len(labels_K)
        self._labels_K = labels_K
        self._hits_2K = torch.zeros(2, count, dtype=torch.float64)
        self._top_KT = torch.zeros(count, min(KEPT, classes), dtype=torch.int64)
        self._similarities_2K = torch.zeros(2, count)

    def add(self, indices_B: Tensor, logits_BN: Tensor) -> None:
        """Note the products (float32) of pictures, whose places in the set are these, with all classes."""
        labels_B = self._labels_K[indices_B].to(logits_BN.device)
        for row_K, k in zip(self._hits_2K, (1, KEPT), strict=True):
            row_K[indices_B] = hits(logits_BN, labels_B, k).cpu()
        highest_BT, top_BT = logits_BN.topk(self._top_KT.shape[1], dim=1)
        self._top_KT[indices_B] = top_BT.cpu()
        self._similarities_2K[0, indices_B] = highest_BT[:, 0].cpu()
        self._similarities_2K[1, indices_B] = logits_BN.gather(1, labels_B[:, None])[:, 0].cpu()

    def total(self, unreadable: list[int], ranks: Ranks) -> Predictions:
        """What all ranks have classified together; these places hold no picture that could be read."""
        read_K = np.ones(len(self._labels_K), bool)
        read_K[unreadable] = False
        similarity_K, label_similarity_K = ranks.total(self._similarities_2K).numpy()
        return Predictions(
            labels_K=self._labels_K.numpy(),
            read_K=read_K,
            hits_2K=ranks.total(self._hits_2K).numpy(),
            top_KT=ranks.total(self._top_KT).numpy(),
            similarity_K=similarity_K,
            label_similarity_K=label_similarity_K,
        )


def hits(logits_BN: Tensor, labels_B: Tensor, k: int) -> Tensor:
    """Whether each label is among the k highest logits: float64 (B,), 1 or 0, and a fraction at a tie.

    Where t others tie with the label for the last places, the value is the chance that a random order of the
    tied puts the label among the first k: a model that gives every class the same logit scores k / N, not 1.
    A logit that is not a number beats the label.
    """
    targets_B = logits_BN.gather(1, labels_B[:, None])
    below_B = (logits_BN < targets_B).sum(1)
    tied_B = (logits_BN == targets_B).sum(1)
    above_B = logits_BN.shape[1] - below_B - tied_B
    return ((k - above_B).double() / tied_B.clamp(min=1)).clamp(0, 1)
