"""From bytes as served to the picture that the dataset keeps: upright, sRGB, small, JPEG."""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import simplejpeg

from clipkit.ingest.blurring import blurred
from clipkit.ingest.colour import to_srgb
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.decoding import REDUCIBLE, Limits, UnreadableError, decode, sniff
from clipkit.ingest.resize import resized
from clipkit.ingest.rows import Box, Failed
from clipkit.metadata import with_end
from clipkit.pictures import Pixels

# At quality 95, 4:4:4 makes files a fifth larger and a quarter slower to decode in every epoch of every
# training, for colour detail that the pictures of the web, mostly 4:2:0 themselves, rarely have.
CHROMA = "420"
Places = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Weights = np.ndarray[tuple[int, int], np.dtype[np.float64]]

LARGEST_SIDE = 16_384  # of the stored picture, in pixels; a JPEG ends at 65,500
_SUMMED_IN_32_BITS = 2**31 // 255  # pixels
_EXTENSIONS = {"jpeg": "jpg"}
_OTHER_PICTURES = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\1\0", "ICO"),
    (b"8BPS", "PSD"),
    (b"%PDF", "PDF"),
)
_BRANDS_OF_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_MARKUP = (
    (b"<svg", "SVG"),
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"<!--", "HTML"),
    (b"<?xml", "XML"),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as stored (`content`, `width` × `height`) and as served (`original_…`, its SHA-256 in hex).

    All sizes are in pixels of the upright picture. `dhash` is `difference_hash` of the upright picture,
    resized as for storing.
    """

    content: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    original_format: str
    original_bytes: int
    sha256: str
    dhash: int
    ext: str


def process(data: bytes, config: IngestConfig, boxes: tuple[Box, ...] = ()) -> Picture | Failed:
    """Make the stored picture: first frame, upright, sRGB on white, short side at most `image_size`, JPEG.

    What lies in `boxes` is blurred. With `keep_original` the bytes stay as served, once all of them have been
    decoded like any others. Whatever is wrong with the bytes comes back as a value: one picture never ends a
    run.
    """
    if not data:
        return Failed("empty", "no bytes")
    kind = sniff(data)
    if kind is None:
        return Failed("not_an_image", _likely(data))
    limits = Limits(
        config.max_pixels,
        config.min_size,
        config.max_aspect or math.inf,
        reducible=1 if config.keep_original else REDUCIBLE,  # what is kept is decoded whole, later
    )
    try:
        return _stored(data, kind, config, limits, boxes)
    except UnreadableError as error:
        return Failed(error.reason, error.detail)
    except Exception as error:  # resizing, colour and encoding meet what decoding let through
        return Failed("broken_image", f"{type(error).__name__}: {error}".partition("\n")[0][:200])


def _stored(data: bytes, kind: str, config: IngestConfig, limits: Limits, boxes: tuple[Box, ...]) -> Picture:
    # As others' decoders refuse it without its end, it stays broken where the bytes are kept.
    whole = with_end(data) if kind == "jpeg" and not config.keep_original else data
    decoded = decode(whole, kind, short_side=config.image_size, limits=limits)
    size = _stored_size(decoded.width, decoded.height, config.image_size)
    if max(size) > LARGEST_SIDE:
        raise UnreadableError("aspect", f"{decoded.width} x {decoded.height}")
    extent = decoded.width / decoded.reduction, decoded.height / decoded.reduction
    pixels = resized(decoded.pixels, extent, size)
    if pixels.ndim == 3:
        pixels = pixels[:, :, :3]
    if boxes:
        pixels = blurred(pixels, boxes)
    rgb = np.ascontiguousarray(to_srgb(upright(pixels, decoded.orientation), decoded.icc))
    width, height = decoded.width, decoded.height
    if decoded.orientation >= 5:
        width, height = height, width
    if config.keep_original:
        content, stored = data, (width, height)
    else:
        content = simplejpeg.encode_jpeg(rgb, config.quality, "RGB", CHROMA, fastdct=False)
        stored = rgb.shape[1], rgb.shape[0]
    return Picture(
        content=content,
        width=stored[0],
        height=stored[1],
        original_width=width,
        original_height=height,
        original_format=kind,
        original_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        dhash=difference_hash(rgb),
        ext=_EXTENSIONS.get(kind, kind) if config.keep_original else "jpg",
    )


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an Exif orientation (1–8) of pixels (H, W) or (H, W, C)."""
    if orientation == 1:
        return pixels
    if orientation in (2, 4, 5, 7):
        pixels = pixels[:, ::-1]
    quarter_turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.rot90(pixels, quarter_turns)


def difference_hash(rgb: Pixels) -> int:
    """Return the 64-bit difference hash of RGB pixels (H, W, 3): near-equal pictures differ in few bits.

    The picture as luma (BT.601) is reduced to 9 × 8 by area; bit 63 − (8·row + column) says whether a
    cell is darker than its right neighbour (Krawetz, "Kind of Like That", 2013).
    """
    cells = _means(np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8), rows=8, columns=9)
    return int.from_bytes(np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes(), "big")


def _means(grey: Pixels, rows: int, columns: int) -> Pixels:
    # From the sums over all rectangles at the top left: exact, and several times as fast as resizing by area.
    height, width = grey.shape
    depth = cv2.CV_32S if grey.size < _SUMMED_IN_32_BITS else cv2.CV_64F
    sums = cv2.integral(grey, sdepth=depth)
    places, down, across = _corners(height, width, rows, columns)
    cells = down @ sums.take(places) @ across
    means: Pixels = np.floor(cells / (height * width) + 0.5).astype(np.uint8)
    return means


@lru_cache(maxsize=512)
def _corners(height: int, width: int, rows: int, columns: int) -> tuple[Places, Weights, Weights]:
    # Which sums are needed, and how many parts of each, from the left and from the right, make a cell.
    (vertical, down), (horizontal, across) = _borders(height, rows), _borders(width, columns)
    return vertical[:, None] * (width + 1) + horizontal, down, np.ascontiguousarray(across.T)


def _borders(size: int, cells: int) -> tuple[Places, Weights]:
    # A cell ends after whole pixels and some parts of `cells` of the next: as much of the sum there.
    whole, part = np.divmod(np.arange(cells + 1) * size, cells)
    sums = np.zeros((cells + 1, size + 1))
    np.add.at(sums, (np.arange(cells + 1), whole), cells - part)
    np.add.at(sums, (np.arange(cells + 1), np.minimum(whole + 1, size)), part)
    places = np.flatnonzero(sums.any(axis=0))
    return places, np.diff(sums[:, places], axis=0)


def _stored_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    short = min(width, height)
    if short <= short_side:
        return width, height
    return round(width * short_side / short), round(height * short_side / short)


def _likely(data: bytes) -> str:
    for mark, name in _OTHER_PICTURES:
        if data.startswith(mark):
            return name
    if data[4:8] == b"ftyp":  # ISO's container
        return "HEIC" if data[8:12] in _BRANDS_OF_HEIC else f"a file of the brand {data[8:12]!r}"
    start = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for mark, name in _MARKUP:
        if start.startswith(mark):
            return name
    return f"starts with {data[:16]!r}"
