"""Decoding pictures from anywhere: size-limited before decoding, one clear error for whatever is wrong."""

import io
import math
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from clipkit.errors import DatasetError
from clipkit.jpeg import check_whole, jpeg_header
from clipkit.metadata import without_metadata
from clipkit.pictures import JPEG_START, MAX_PIXELS, Pixels, check_scans

# Only formats whose decoders read pixels: no PostScript, no metafiles. JPEG includes MPO.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")


class _Quiet:
    """Silences Pillow's warnings while any thread is inside: all threads share the filters of warnings."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._inside = 0
        self._before = warnings.catch_warnings()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._changing:
            if not self._inside:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
            self._inside += 1
        try:
            yield
        finally:
            with self._changing:
                self._inside -= 1
                if not self._inside:
                    self._before.__exit__(None, None, None)

    def after_fork(self) -> None:
        """Begin anew: the threads that are inside, or hold the lock, are the parent's."""
        self._changing = threading.Lock()
        if self._inside:
            self._inside = 0
            self._before.__exit__(None, None, None)


_quiet = _Quiet()
os.register_at_fork(after_in_child=_quiet.after_fork)


@contextmanager
def opened(image: bytes) -> Iterator[Image.Image]:
    """Open a picture with Pillow, its pixels not decoded yet; what fails inside comes out as DatasetError.

    Pillow's warnings about odd metadata are silenced. A picture of more than 36 megapixels is refused by its
    header, a JPEG of too many scans by its markers.
    """
    _check_scans(image)
    try:
        stream = io.BytesIO(without_metadata(image))
        with _quiet(), Image.open(stream, formats=_formats()) as picture:
            check_pixels(*picture.size)
            yield picture
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DatasetError(
            f"a picture is larger than {MAX_PIXELS // 10**6} megapixels: leave it out"
        ) from None
    except DatasetError:
        raise
    except UnidentifiedImageError:  # its text has an address in memory
        raise DatasetError("not a picture of a known format: leave it out") from None
    except Exception as error:  # decoders fed with hostile bytes raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"not a picture that can be decoded ({reason}): leave it out") from error


def check_pixels(width: int, height: int) -> None:
    """Raise DatasetError for more than 36 megapixels."""
    if width * height > MAX_PIXELS:
        size = f"{width}x{height} pixels, over {MAX_PIXELS // 10**6} megapixels"
        raise DatasetError(f"a picture has, or would be resized to, {size}: leave it out")


def jpeg_size(image: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG that libjpeg-turbo can decode to RGB; None for anything else.

    Raises DatasetError for a JPEG of too many scans, which would take seconds to decode.
    """
    if not image.startswith(JPEG_START):
        return None
    _check_scans(image)
    try:
        height, width, colors, _ = jpeg_header(image)
    except ValueError:
        return None
    return (width, height) if colors in ("YCbCr", "Gray") else None


def decode_jpeg(image: bytes, least_width: float, least_height: float) -> Pixels | None:
    """Pixels (H, W, 3) at the smallest DCT scale with at least these sides; None if libjpeg objects."""
    sides = {"min_width": math.ceil(least_width), "min_height": math.ceil(least_height)}
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(image, "RGB", min_factor=2, strict=True, **sides)
    except ValueError:
        return None
    return pixels


def check_whole_jpeg(image: bytes) -> None:
    """Raise DatasetError for a JPEG of whose pixels libjpeg says that some are lost; Pillow decodes it so."""
    try:
        if image.startswith(JPEG_START):
            check_whole(image)
    except ValueError as error:
        if str(error).startswith("Corrupt JPEG data: "):
            raise DatasetError(f"not a picture that can be decoded ({error}): leave it out") from None


def rgb_pixels(image: bytes) -> Pixels:
    """Pixels (H, W, 3) of a whole picture: those of Pillow's `convert("RGB")`. Raises as `opened` does.

    What libjpeg-turbo decodes without a warning has the same pixels in Pillow, which is built on it.
    """
    size = jpeg_size(image)
    if size is not None:
        check_pixels(*size)
        pixels = decode_jpeg(image, *size)
        if pixels is not None:
            return pixels
    with opened(image) as picture:
        return np.asarray(picture.convert("RGB"))


def _check_scans(image: bytes) -> None:
    try:
        check_scans(image)
    except ValueError as error:
        raise DatasetError(f"a JPEG has {error}: leave it out") from None


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
