"""Whether a stored picture decodes, and to the size that its manifest has."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from clipkit.jpeg import check_whole, jpeg_header
from clipkit.metadata import orientation_of, without_metadata
from clipkit.pictures import MAX_PIXELS, check_scans

_FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"]  # what ingest stores; decoders of pixels alone


def picture_fault(
    data: bytes, width: int | None, height: int | None, max_pixels: int, *, encoded_here: bool = False
) -> str | None:
    """Decode a picture whole; return what is wrong with it, None if nothing is.

    A picture stored as served may lie on its side, as its Exif says: `width` and `height` are of it upright.
    What the decoder forgives such a one is damage to one that was `encoded_here`, by ingest.
    """
    try:
        size = _decoded(data, max_pixels, encoded_here)
    except Exception as error:  # decoders fed with damaged bytes raise anything
        return f"expected a picture that can be decoded, found: {' '.join(str(error).split())[:200]}"
    if None not in (width, height) and size != (width, height):
        return f"expected {width} x {height} pixels as the manifest says, found {size[0]} x {size[1]}"
    return None


def picture_size(data: bytes) -> tuple[int, int]:
    """Return a picture's width and height, upright; no pixel is decoded. Raises anything for what is none."""
    with opened_picture(data) as picture:
        return _upright_size(picture, data)


def _upright_size(picture: Image.Image, data: bytes) -> tuple[int, int]:
    width, height = picture.size
    sideways = orientation_of(data, picture.info.get("exif", b"")) >= 5
    return (height, width) if sideways else (width, height)


@contextmanager
def opened_picture(data: bytes) -> Iterator[Image.Image]:
    """Open a picture of a format that ingest stores, undecoded. Raises anything for what is none."""
    stream = io.BytesIO(without_metadata(data))
    with warnings.catch_warnings(action="ignore"), Image.open(stream, formats=_FORMATS) as picture:
        yield picture


def _decoded(data: bytes, max_pixels: int, encoded_here: bool) -> tuple[int, int]:
    """Decode all of a picture; return its width and height, upright."""
    check_scans(data)
    with opened_picture(data) as picture:
        size = _upright_size(picture, data)
        if size[0] * size[1] > max(max_pixels, MAX_PIXELS):
            raise ValueError(f"{size[0]} x {size[1]} pixels are too many")
        if (
            picture.format in ("JPEG", "MPO")
            and picture.mode in ("L", "RGB", "CMYK")
            and _is_known_to_turbojpeg(data)
        ):
            check_whole(data, encoded_here=encoded_here)
        else:
            picture.load()
    return size


def _is_known_to_turbojpeg(data: bytes) -> bool:
    try:
        jpeg_header(data)
    except ValueError:  # rare chroma subsamplings, say
        return False
    return True
