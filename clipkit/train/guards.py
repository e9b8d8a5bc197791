"""Warnings about what makes a run worthless without stopping it, each said once in a sitting.

They look at one batch for each line of metrics: they cost next to nothing. B samples, N of them, C colours,
H and W pixels, L tokens.
"""

import math
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from clipkit.shards.loader import Batch

Say = Callable[[str], None]

_STUCK_STEPS = 300
_STUCK_SHARE = 0.005  # of ln(batch): how near the mean loss is to it
_STUCK_FALL = 0.001  # of ln(batch): less than this from one half of the steps to the other
_ROWS = 256  # captions looked at before they are judged
_EQUAL_CAPTIONS = 0.1
_PICTURES = 64  # likewise of pictures
_OF_A_BATCH = 32
_FEWEST = 16
_FLAT_LEVELS = 8  # of 255, between a picture's darkest and brightest value
_FLAT_PICTURES = 0.1
_LOOK = "Look at some: `clipkit shards show DIR --random 20`"
_SAME_LEVELS = 40.0  # between the mean colours of one sixteenth of all pictures, for most sixteenths


class StuckLoss:
    """The loss stays at ln(batch size), that of guessing, after the warm-up.

    That is: over 300 steps its mean is within 0.5% of it, and falls by less than 0.1% from half to half.
    """

    def __init__(self, batch_size: int, warmup: int, say: Say):
        self._guessing = math.log(batch_size)
        self._warmup = warmup
        self._say = say
        self._lines: deque[tuple[int, float]] = deque()  # steps, mean loss
        self._step = 0
        self._told = False

    def add(self, step: int, loss: float) -> None:
        """Take the mean loss of the steps since the last call, up to `step`."""
        steps, self._step = step - self._step, step
        if self._told or step - steps < self._warmup or not self._guessing:
            return
        self._lines.append((steps, loss))
        total = sum(each for each, _ in self._lines)
        while total - self._lines[0][0] >= _STUCK_STEPS:
            total -= self._lines.popleft()[0]
        if total < _STUCK_STEPS or len(self._lines) < 2:
            return
        lines = list(self._lines)
        half = len(lines) // 2
        earlier, later = _mean(lines[:half]), _mean(lines[half:])
        near = abs(_mean(lines) - self._guessing) < _STUCK_SHARE * self._guessing
        if near and earlier - later < _STUCK_FALL * self._guessing:
            self._told = True
            self._say(
                f"warning: over the last {total:,} steps the loss stayed at {later:.3f}, that of guessing, "
                f"ln(batch size) = {self._guessing:.3f}. Usual causes: a too high --lr made all features "
                "equal (try a tenth of it); captions do not belong to their pictures, or are all alike "
                f"({_LOOK}). --overfit 64 tells whether this set-up learns"
            )


class EqualCaptions:
    """Many captions of a batch are the same: each is taught as a wrong answer for the others' pictures."""

    def __init__(self, say: Say):
        self._say = say
        self._rows = self._again = 0
        self._told = False

    def look(self, tokens_BL: Tensor) -> None:
        """Look at a batch's captions."""
        if self._told:
            return
        self._rows += len(tokens_BL)
        self._again += repeated_rows(tokens_BL)
        share = self._again / self._rows
        if self._rows >= _ROWS and share > _EQUAL_CAPTIONS:
            self._told = True
            self._say(
                f"warning: {share:.0%} of the captions repeat another one of their batch: each is taught as "
                "a wrong answer for the other's picture (a false negative), which holds loss and accuracy "
                "back. Give captions that tell more than a class, or train with a smaller --batch-size"
            )


class StrangePictures:
    """Many pictures of a batch are of one colour, or all are the same: no photographs as they should come."""

    def __init__(self, say: Say):
        self._say = say
        self._seen = self._flat = self._brightest_flat = 0
        self._told_flat = self._told_same = False
        self._same_before = False

    def look(self, images_BCHW: Tensor) -> None:
        """Look at some pictures of a batch, uint8."""
        some_NCHW = images_BCHW[:: max(1, len(images_BCHW) // _OF_A_BATCH)][:_OF_A_BATCH]
        if not self._look_for_flat(some_NCHW):
            self._look_for_same(some_NCHW)

    def _look_for_flat(self, images_NCHW: Tensor) -> int:
        brightest_N = images_NCHW.amax((1, 2, 3)).to(torch.int32)
        flat_N = brightest_N - images_NCHW.amin((1, 2, 3)) < _FLAT_LEVELS
        self._seen += len(images_NCHW)
        self._flat += int(flat_N.sum())
        self._brightest_flat = max(self._brightest_flat, int((brightest_N * flat_N).amax()))
        share = self._flat / self._seen
        if not self._told_flat and self._seen >= _PICTURES and share > _FLAT_PICTURES:
            self._told_flat = True
            black = f"nearly black, no value above {self._brightest_flat} of 255: were they stored as 0…1?"
            one = "of one colour: placeholders of servers, or broken before they came here?"
            found = black if self._brightest_flat < _FLAT_LEVELS else one
            self._say(f"warning: {share:.0%} of the pictures are {found} {_LOOK}")
        return int(flat_N.sum())

    def _look_for_same(self, images_NCHW: Tensor) -> None:
        if self._told_same or len(images_NCHW) < _FEWEST:
            return
        means_NCHW = adaptive_avg_pool2d(images_NCHW.float(), 4)
        spread = (means_NCHW.amax(0) - means_NCHW.amin(0)).median().item()
        same, before = spread < _SAME_LEVELS, self._same_before
        self._same_before = same
        if same and before:
            self._told_same = True
            self._say(
                "warning: all pictures of a batch are nearly the same one: nothing can be learned from them. "
                f"{_LOOK}"
            )


def repeated_rows(tokens_BL: Tensor) -> int:
    """Return how many rows are the same as one before them."""
    return len(tokens_BL) - len({row.tobytes() for row in tokens_BL.numpy()})


class Guards:
    """All of them, for a run of batches of `batch_size` with so many steps of `warmup`."""

    def __init__(self, batch_size: int, warmup: int, say: Say):
        self._loss = StuckLoss(batch_size, warmup, say)
        self._captions = EqualCaptions(say)
        self._pictures = StrangePictures(say)

    def look(self, batch: Batch) -> None:
        """Look at a batch before it is trained on."""
        self._captions.look(batch.tokens_BL)
        self._pictures.look(batch.images_BCHW)

    def add_loss(self, step: int, loss: float) -> None:
        """Take the mean loss of the steps since the last call, up to `step`."""
        self._loss.add(step, loss)


def _mean(lines: list[tuple[int, float]]) -> float:
    return sum(steps * loss for steps, loss in lines) / sum(steps for steps, _ in lines)
