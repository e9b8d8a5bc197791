"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak`, then a half cosine to zero at `steps`, or constant.

    As in the CLIP paper and OpenCLIP: step k (0-based) of the warm-up has peak·(k+1)/warmup.
    """

    peak: float
    warmup: int
    steps: int
    shape: Literal["cosine", "constant"] = "cosine"

    def __call__(self, step: int) -> float:
        """Return the learning rate of the 0-based `step`."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        if self.shape == "constant":
            return self.peak
        angle = math.pi * (step - self.warmup) / (self.steps - self.warmup)
        return 0.5 * (1 + math.cos(angle)) * self.peak
