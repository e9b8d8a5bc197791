"""Resizing for evaluation: Pillow's bicubic and torchvision's crop bit for bit, in two thirds of the time.

H and W are a picture's height and width in pixels, B the bytes of a row.
"""

import math

import cv2
import numpy as np
from PIL import Image

from clipkit.model.pictures import check_pixels
from clipkit.pictures import Pixels

_BYTES = 4  # of what Pillow takes for a pixel
_SUPPORT = 2  # of the bicubic kernel, in pixels of the smaller picture


def centered_box(width: int, height: int, size: int) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Width and height that give the short side `size`, and the box of the square in the middle.

    The rounding is that of torchvision's Resize and CenterCrop. Raises DatasetError for too many pixels.
    """
    longer = int(size * max(width, height) / min(width, height))
    resized = (size, longer) if width <= height else (longer, size)
    check_pixels(*resized)
    left, top = round((resized[0] - size) / 2.0), round((resized[1] - size) / 2.0)
    return resized, (left, top, left + size, top + size)


def centered_square(pixels_HWC: Pixels, size: int) -> Pixels:
    """The square in the middle, resized to `size` × `size`: RGB like the input.

    It equals Pillow's `resize` (bicubic) of the whole picture, of which the square is cut out afterwards.
    Raises DatasetError for too many pixels.
    """
    height, width = pixels_HWC.shape[:2]
    resized, box = centered_box(width, height, size)
    if resized == (width, height):
        return pixels_HWC[box[1] : box[3], box[0] : box[2]]
    if height > 2 * width:  # Pillow from 12 on resizes the height of such pictures first
        whole = Image.fromarray(pixels_HWC).resize(resized, Image.Resampling.BICUBIC)
        return np.asarray(whole.crop(box))
    return _in_two_passes(pixels_HWC, resized, box)


def _in_two_passes(pixels_HWC: Pixels, resized: tuple[int, int], box: tuple[int, int, int, int]) -> Pixels:
    """Pillow's two passes, the width and then the height, each over what the square needs of it.

    Between them values are rounded to uint8, as in Pillow. Its pass over the height is the faster one, so
    that the picture is laid on its side for the width. Each channel is computed for itself, so that any four
    bytes beside each other may pass for a pixel.
    """
    height, width = pixels_HWC.shape[:2]
    left, top, right, bottom = box
    scale = height / resized[1]
    reach = _SUPPORT * max(1.0, scale) + 1
    first = max(0, math.floor(top * scale - reach))
    last = min(height, math.ceil(bottom * scale + reach))
    lying_WHC = _padded(width, last - first)
    cv2.transpose(pixels_HWC[first:last], lying_WHC[:, : last - first])
    lying_WHC = _rows_resized(lying_WHC, resized[0])[left:right, : last - first]
    standing_HWC = _padded(
        height, right - left
    )  # rows beside first…last stay undefined: no pixel kept sees them
    cv2.transpose(lying_WHC, standing_HWC[first:last, : right - left])
    return _rows_resized(standing_HWC, resized[1])[top:bottom, : right - left]


def _padded(rows: int, columns: int) -> Pixels:
    """Room for so many pixels, and for some columns more, so that a row's bytes are a multiple of four."""
    return np.empty((rows, -(-columns // _BYTES) * _BYTES, 3), np.uint8)


def _rows_resized(pixels_HWC: Pixels, rows: int) -> Pixels:
    """Another number of rows, of the same width."""
    height, width, channels = pixels_HWC.shape
    size = (width * channels // _BYTES, height)
    packed = Image.frombuffer("RGBX", size, pixels_HWC, "raw", "RGBX", 0, 1)
    resized = packed.resize((size[0], rows), Image.Resampling.BICUBIC)
    return np.asarray(resized).reshape(rows, width, channels)
