"""Whether two models compute the same: features and logits of fixed inputs.

B pictures, as many texts, C colours, H and W pixels, L token positions.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipkit.model.clip import Clip
from clipkit.model.config import ClipConfig

FEATURE_TOLERANCE = 1e-5
LOGIT_TOLERANCE = 1e-4
PROBES = 3


class Reference:
    """What a model computes for fixed inputs, computed once, for others to be compared with."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self._inputs = _inputs(clip.config)
        with torch.inference_mode():
            images_BD, texts_BD, scale = clip.features(*self._inputs)
            self._outputs = (images_BD, texts_BD, scale * images_BD @ texts_BD.t())

    @torch.inference_mode()
    def difference(self, other: nn.Module) -> tuple[float, float]:
        """Largest differences of unit-length features and of logits; nan if one of them is not a number."""
        towers = cast(Any, other)
        images_BCHW, tokens_BL = self._inputs
        if isinstance(other, Clip):
            images_BD, texts_BD, scale = other.features(images_BCHW, tokens_BL)
            outputs = (images_BD, texts_BD, scale * images_BD @ texts_BD.t())
        else:  # three methods that may each have been made apart
            images_BD = functional.normalize(towers.encode_image(images_BCHW), dim=-1)
            texts_BD = functional.normalize(towers.encode_text(tokens_BL), dim=-1)
            outputs = (images_BD, texts_BD, towers(images_BCHW, tokens_BL)[0])
        image_error, text_error, logit_error = map(_difference, self._outputs, outputs)
        return max(image_error, text_error, key=_nan_last), logit_error


def _inputs(config: ClipConfig) -> tuple[Tensor, Tensor]:
    size, text = config.image_size, config.text
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.randn(PROBES, 3, size, size, generator=generator)
    tokens_BL = torch.randint(1, text.vocab_size - 2, (PROBES, text.context_length), generator=generator)
    for row, end in enumerate((text.context_length - 1, 2, text.context_length // 2)):
        tokens_BL[row, end] = text.vocab_size - 1
        tokens_BL[row, end + 1 :] = 0
    return images_BCHW, tokens_BL


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _nan_last(value: float) -> tuple[bool, float]:
    return value != value, value
