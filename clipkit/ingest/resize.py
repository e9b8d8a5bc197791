"""Making pictures smaller without aliasing, and quickly: every picture of every run passes here."""

import cv2
import numpy as np

from clipkit.pictures import Pixels

Taps = np.ndarray[tuple[int], np.dtype[np.float64]]


def resized(pixels: Pixels, extent: tuple[float, float], size: tuple[int, int]) -> Pixels:
    """Reduce the `extent` of uint8 pixels (H, W) or (H, W, 3) to `size`, both (width, height).

    The extent is from the top left, not smaller than the size; it need not be whole, for a JPEG decoded at a
    fraction of its size ends within its last pixels. Reducing by less than a half, which is all that decoding
    leaves to do, is a 3-tap low-pass and cubic interpolation: nearer to Lanczos than the mean over areas, at
    a third of its cost (bench/RESULTS.md).
    """
    across, down = extent[0] / size[0], extent[1] / size[1]
    if across == down == 1:
        return pixels
    kind = cv2.INTER_AREA
    if max(across, down) < 2:
        kind = cv2.INTER_CUBIC
        pixels = np.asarray(cv2.sepFilter2D(pixels, -1, _low_pass(across), _low_pass(down)), np.uint8)
    # By the factors, not to the size: that would squeeze the padding behind the extent into the picture.
    reduced = cv2.resize(pixels, None, fx=1 / across, fy=1 / down, interpolation=kind)
    return np.asarray(reduced, np.uint8)[: size[1], : size[0]]


def _low_pass(factor: float) -> Taps:
    # Its variance grows as that of the area that one pixel of the result stands for.
    side = (factor * factor - 1) / 12
    return np.array((side, 1 - 2 * side, side))
