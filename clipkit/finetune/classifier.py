"""An image classifier made of a CLIP: its image tower, and a linear head that begins as the zero-shot one.

B batch, C channels, H height, W width, D embedding, N classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from clipkit.evaluate.classes import ClassSet
from clipkit.evaluate.head import Head
from clipkit.model.checkpoint import Checkpoint
from clipkit.model.clip import Clip
from clipkit.model.weights import HEAD_KEY
from clipkit.shards.loader import Batch
from clipkit.train.checkpoints import CheckpointWriter
from clipkit.train.guards import Guards, Say, StrangePictures
from clipkit.train.step import TrainStep

_PARAMETER = "head_DN"
_SCALED_KEY = "head"  # of a checkpoint: the parameter to the bit, to go on from


def add_head(clip: Clip, weights_DN: Tensor, *, freeze_image: bool = False) -> None:
    """Give a CLIP the zero-shot classifier as a parameter of its own, and freeze what is not fine-tuned.

    The parameter is the head times exp(logit_scale), as in the authors' implementation: only so do learning
    rate, weight decay and clipping mean what they mean there. The text tower and the scale are frozen, and
    with `freeze_image` the image tower too.
    """
    clip.lock_text()
    clip.logit_scale.requires_grad_(False)
    if freeze_image:
        clip.lock_image()
    clip.register_parameter(_PARAMETER, nn.Parameter(weights_DN * clip.logit_scale.detach().exp()))


def head_weights(clip: Clip) -> Tensor:
    """The head (D, N) as evaluations take it, without the scale."""
    return clip.get_parameter(_PARAMETER).detach() / clip.logit_scale.detach().exp()


def clip_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a state dict that are the CLIP's own: all but the head's."""
    return {name: value for name, value in weights.items() if name != _PARAMETER}


class Logits(nn.Module):
    """Normalised pictures (B, C, H, W) and labels (B, L = 1) → logits (B, N) and labels (B,).

    Logits are exp(logit_scale) · feature of length 1 · head, without a bias, as in the paper's formula.
    """

    def __init__(self, clip: Clip):
        super().__init__()
        self.clip = clip

    def forward(self, images_BCHW: Tensor, labels_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the logits; the labels pass through."""
        features_BD = functional.normalize(self.clip.encode_image(images_BCHW), dim=-1)
        return features_BD @ self.clip.get_parameter(_PARAMETER), labels_BL[:, 0]


@dataclass
class ClassifierStep(TrainStep):
    """Applies one batch of pictures and labels: cross-entropy over the classes."""

    label_smoothing: float = 0.0

    def loss(self, output: Any) -> Tensor:
        """Return the mean cross-entropy of logits and labels."""
        logits_BN, labels_B = output
        return functional.cross_entropy(logits_BN.float(), labels_B, label_smoothing=self.label_smoothing)

    def guards(self, batch_size: int, say: Say) -> Guards:
        """Return what warns of strange pictures; labels repeat as they should."""
        return _PictureGuards(say)


class _PictureGuards(Guards):
    def __init__(self, say: Say):
        self._pictures = StrangePictures(say)

    def look(self, batch: Batch) -> None:
        self._pictures.look(batch.images_BCHW)

    def add_loss(self, step: int, loss: float) -> None:
        pass


class ClassifierCheckpoints(CheckpointWriter):
    """Writes checkpoints that are a CLIP's, the fine-tuned image tower in it, and hold the head beside it."""

    def __init__(self, classes: ClassSet, *writer: Any):
        super().__init__(*writer)
        self._classes = classes

    def parts(self, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the CLIP's weights; and the head, once to evaluate with, once to go on from."""
        head = Head(self._classes, head_weights(self.model))
        return clip_weights(weights), {HEAD_KEY: head.stored(), _SCALED_KEY: weights[_PARAMETER]}

    def load(self, checkpoint: Checkpoint) -> None:
        """Give the model the weights that `parts` were made of."""
        self.model.load_state_dict(checkpoint.state_dict | {_PARAMETER: checkpoint.extra[_SCALED_KEY]})
