"""Faces, or whatever else a list gives the boxes of, made unrecognizable in the stored picture.

As faces in ImageNet were (Yang et al., "A Study of Face Obfuscation in ImageNet", 2022): a Gaussian blur
whose standard deviation is a tenth of a box's diagonal, within the box and a tenth of its diagonal around it,
fading out. DataComp gives `face_bboxes`.
"""

import math
from typing import Any, TypeGuard

import cv2
import numpy as np

from clipkit.ingest.rows import Box, UrlRow
from clipkit.json_values import parsed_json
from clipkit.pictures import Pixels
from clipkit.shards.text_files import shortened

_MOST_BOXES = 1000
_SPREAD = 0.1  # of a box's diagonal
_LARGEST_SIGMA = 8.0  # pixels; what is to be blurred more is reduced first
_BEYOND = 1.0  # detectors put boxes a little over the edge; pixels instead of shares are further out


def with_boxes(row: UrlRow, value: Any) -> UrlRow:
    """Return the row with the boxes that a list's `value` is as JSON, or with the problem that it is none.

    Nothing stands for no box.
    """
    if value is None or value == "":
        return row
    try:
        boxes = tuple(tuple(map(float, box)) for box in parsed_json(value))
    except (ValueError, TypeError):
        boxes = ((),)
    if len(boxes) <= _MOST_BOXES and _are_boxes(boxes):
        return row._replace(boxes=boxes)
    problem = (
        "expected boxes [[left, top, right, bottom], …] in shares of width and height for --blur-col, "
        f"{_MOST_BOXES:,} at most, found {shortened(str(value), 100)}"
    )
    return row._replace(problem=problem)


def blurred(pixels: Pixels, boxes: tuple[Box, ...]) -> Pixels:
    """Return grey (H, W) or RGB (H, W, 3) pixels with the boxes blurred."""
    result = pixels.copy()
    height, width = pixels.shape[:2]
    for left, top, right, bottom in boxes:
        corners = left * width, top * height, right * width, bottom * height
        sigma = _SPREAD * math.hypot(corners[2] - corners[0], corners[3] - corners[1])
        if sigma:
            _blur(result, corners, sigma)
    return result


def _blur(pixels: Pixels, corners: Box, sigma: float) -> None:
    x0, y0, x1, y1 = _clipped(pixels, corners, sigma)  # what fades at its edge
    u0, v0, u1, v1 = _clipped(pixels, corners, 4 * sigma)  # all that it depends on
    if x0 >= x1 or y0 >= y1:
        return
    region = pixels[v0:v1, u0:u1]
    share = np.zeros(region.shape[:2], np.float32)
    share[y0 - v0 : y1 - v0, x0 - u0 : x1 - u0] = 1
    share, smooth = _smoothed(share, sigma), _smoothed(region.astype(np.float32), sigma)
    if region.ndim == 3:
        share = share[:, :, None]
    pixels[v0:v1, u0:u1] = np.rint(region + share * (smooth - region)).astype(np.uint8)


def _smoothed(values: Any, sigma: float) -> Any:
    factor = max(1, round(sigma / _LARGEST_SIGMA))
    height, width = values.shape[:2]
    size = math.ceil(width / factor), math.ceil(height / factor)
    small = cv2.resize(values, size, interpolation=cv2.INTER_AREA) if factor > 1 else values
    small = cv2.GaussianBlur(small, (0, 0), sigma / factor, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR) if factor > 1 else small


def _clipped(pixels: Pixels, corners: Box, margin: float) -> tuple[int, int, int, int]:
    height, width = pixels.shape[:2]
    left, top, right, bottom = corners
    return (
        max(0, math.floor(left - margin)),
        max(0, math.floor(top - margin)),
        min(width, math.ceil(right + margin)),
        min(height, math.ceil(bottom + margin)),
    )


def _are_boxes(found: tuple[tuple[float, ...], ...]) -> TypeGuard[tuple[Box, ...]]:
    return all(
        len(box) == 4
        and box[0] <= box[2]
        and box[1] <= box[3]
        and all(-_BEYOND <= each <= 1 + _BEYOND for each in box)
        for box in found
    )
