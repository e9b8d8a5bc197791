"""Whether a stored picture decodes, and to the size that its manifest has."""

import io
import warnings

import simplejpeg
from PIL import Image

from clipkit.pictures import MAX_PIXELS, MAX_SCANS, scan_count

_ORIENTATION = 0x0112  # Exif 2.3
_FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"]  # what ingest stores; decoders of pixels alone


def picture_fault(data: bytes, width: int | None, height: int | None, max_pixels: int) -> str | None:
    """Decode a picture whole; return what is wrong with it, None if nothing is.

    A picture stored as served may lie on its side, as its Exif says: `width` and `height` are of it upright.
    """
    try:
        size, orientation = _decoded(data, max_pixels)
    except Exception as error:  # decoders fed with damaged bytes raise anything
        return f"expected a picture that can be decoded, found: {' '.join(str(error).split())[:200]}"
    if orientation >= 5:
        size = size[::-1]
    if None not in (width, height) and size != (width, height):
        return f"expected {width} x {height} pixels as the manifest says, found {size[0]} x {size[1]}"
    return None


def _decoded(data: bytes, max_pixels: int) -> tuple[tuple[int, int], int]:
    """Return width and height of the pixels as they lie, and the orientation."""
    is_jpeg = data.startswith(b"\xff\xd8\xff")
    if is_jpeg and scan_count(data) > MAX_SCANS:
        raise ValueError(f"more than {MAX_SCANS} scans")
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
        size = picture.size
        if size[0] * size[1] > max(max_pixels, MAX_PIXELS):
            raise ValueError(f"{size[0]} x {size[1]} pixels are too many")
        orientation = int(picture.getexif().get(_ORIENTATION, 1)) if not is_jpeg or b"Exif" in data else 1
        if is_jpeg and picture.mode in ("L", "RGB") and _is_known_to_turbojpeg(data):
            # All of the coded data is read, as for the whole picture; an eighth of the pixels is made.
            simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, fastdct=True)
        else:
            picture.load()
    return size, orientation


def _is_known_to_turbojpeg(data: bytes) -> bool:
    try:
        simplejpeg.decode_jpeg_header(data)
    except ValueError:  # rare chroma subsamplings, say
        return False
    return True
