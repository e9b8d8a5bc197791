"""Bytes as served to pixels, with every limit checked before any pixel is decoded."""

import math
import re
import warnings
from io import BytesIO
from typing import NamedTuple

import cv2
import numpy as np
from PIL import AvifImagePlugin, Image, ImageFile

from clipkit.ingest.colour import flattened, laid_on_white
from clipkit.ingest.pieces import MAX_PIECES, has_too_many_pieces
from clipkit.jpeg import check_whole, decode_jpeg, jpeg_header
from clipkit.metadata import has_damaged_chunk, jpeg_metadata, orientation_of, without_metadata
from clipkit.pictures import JPEG_START, Pixels, check_scans
from clipkit.processes import at_most_more_memory, give_back_freed_memory

_MAGIC = (
    (JPEG_START, "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # the same bytes fail with the same words in every run
# What decoders keep beside the pixels, at the limit of 36 megapixels some 200 MB then as for others: libwebp
# takes 7 bytes a pixel, for a lossless picture 9, for an animation 17, Pillow's AVIF 9 to 18, libjpeg, of
# several scans, 6 for three whole colours and 8 for four.
_SHARES = {"webp": 0.75, "lossless": 0.55, "animated": 0.3, "avif": 0.35, "444": 0.69, "cmyk": 0.6}
REDUCIBLE = 8  # times as many pixels as served, in a JPEG in one scan: a second of work, and no more memory
_LARGE_PIXELS = 8_000_000  # what small pictures left free in between would come on top of these
_AVIF = re.compile(rb"avi[fs].*|.{8}(.{4})*avi[fs].*", re.DOTALL)  # its brand, or among the compatible ones
_BYTES_A_PIXEL, _BYTES_BESIDE = 20, 64_000_000  # of memory, for AVIF
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # of one worker among many; else as many as there are CPUs
_SCALED = {"L;2": 85, "L;4": 17}  # grey of 2 and 4 bits to 8
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)


class Decoded(NamedTuple):
    """Grey (H, W), RGB (H, W, 3) or RGBX (H, W, 4) pixels of a picture of `width` × `height`.

    Each stands for `reduction` × `reduction` pixels as served, the last row and column perhaps for less.
    `orientation` (Exif, 1–8) and `icc` are still to be applied.
    """

    pixels: Pixels
    width: int
    height: int
    orientation: int
    icc: bytes | None
    reduction: int = 1


class Limits(NamedTuple):
    """Which pictures are taken: `max_pixels` are those decoded, `min_size` is of the short side as served, in
    pixels, `max_aspect` of long side / short side. A `share` of the pixels is taken where each costs more
    memory; a JPEG that is decoded at a fraction may have `reducible` times as many as served.
    """

    max_pixels: int
    min_size: int = 1
    max_aspect: float = math.inf
    share: float = 1.0
    reducible: int = 1


class UnreadableError(Exception):
    """Bytes that give no picture: a reason of `REASONS` and a detail."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def sniff(data: bytes) -> str | None:
    """Return jpeg, png, gif, webp, avif or bmp by the first bytes, None for anything else."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp" and _AVIF.fullmatch(data, 8, min(128, int.from_bytes(data[:4], "big"))):
        return "avif"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    return None


def decode(data: bytes, kind: str, *, short_side: int, limits: Limits) -> Decoded:
    """Decode a picture of the sniffed `kind`; a JPEG perhaps at 1/2, 1/4 or 1/8, not below `short_side`.

    Raises UnreadableError (too_many_pixels, too_small, aspect, broken_image). A picture that decodes only
    in part is broken.
    """
    try:
        if kind == "jpeg":
            return _decode_jpeg(data, short_side, limits)
        return _decode_other(data, kind, short_side, limits)
    except UnreadableError:
        raise
    except Exception as error:  # hostile bytes make decoders raise anything
        detail = _ADDRESS.sub("", f"{type(error).__name__}: {error}".partition("\n")[0])
        raise UnreadableError("broken_image", detail[:200]) from None


def _decode_jpeg(data: bytes, short_side: int, limits: Limits) -> Decoded:
    metadata = jpeg_metadata(data)
    if not metadata.one_scan:
        try:
            check_scans(data)
        except ValueError as error:
            raise UnreadableError("broken_image", str(error)) from None
    try:
        height, width, colorspace, sampling = jpeg_header(data)
    except ValueError:  # rare chroma subsamplings, say, that TurboJPEG does not know
        return _decode_other(data, "jpeg", short_side, limits)
    four_colours = colorspace in ("CMYK", "YCCK")
    share = 1.0 if metadata.one_scan else _SHARES.get("cmyk" if four_colours else sampling, 1.0)
    # The IDCT reduces by these factors with SIMD; other eighths cost more than they save.
    factor = max(
        factor for factor in (1, 2, 4, 8) if factor == 1 or min(width, height) >= factor * short_side
    )
    # Of several scans libjpeg keeps the whole picture, and what has four colours others may decode whole.
    is_reduced = metadata.one_scan and not four_colours
    _check_size(width, height, limits._replace(share=share), factor if is_reduced else 1)
    if four_colours:
        check_whole(data)
        return _decode_other(data, "jpeg", short_side, limits)
    grey = colorspace == "Gray"
    sides = {"min_height": math.ceil(height / factor), "min_width": math.ceil(width / factor)}
    pixels = decode_jpeg(data, "GRAY" if grey else "RGB", **sides)
    if grey:
        pixels = pixels[:, :, 0]
    return Decoded(pixels, width, height, metadata.orientation, metadata.icc, factor)


def _decode_other(data: bytes, kind: str, short_side: int, limits: Limits) -> Decoded:
    if has_too_many_pieces(data, kind):
        raise UnreadableError("broken_image", f"more than {MAX_PIECES:,} pieces")
    with warnings.catch_warnings(action="ignore"), opened(data, kind) as image:
        width, height = image.size
        is_animated = kind == "webp" and getattr(image, "n_frames", 1) > 1
        is_lossless = kind == "webp" and b"VP8L" in data
        share = _SHARES.get("animated" if is_animated else "lossless" if is_lossless else kind, 1.0)
        _check_size(width, height, limits._replace(share=share))
        if kind == "png" and has_damaged_chunk(data):
            raise UnreadableError("broken_image", "a wrong checksum")
        orientation = orientation_of(data, image.info.get("exif", b""))
        if kind == "jpeg":
            image.info["icc_profile"] = jpeg_metadata(data).icc
        if kind == "webp" and not is_animated:
            return Decoded(_still_webp(data), width, height, orientation, image.info.get("icc_profile"))
        if isinstance(level := image.info.get("transparency"), int):  # Pillow scales the pixels alone
            image.info["transparency"] = level * _SCALED.get(str(image.tile[0].args), 1)
        frame = image.tile[0].extents if kind == "gif" and image.tile else None
        drafted = image.draft(None, (short_side, short_side))  # JPEG only: decodes reduced
        if kind == "avif":
            _load_avif(image, most=int(limits.max_pixels * share))
        image.load()
        reduction = round(width / drafted[1][2]) if drafted else 1
        pixels, icc = flattened(image)
    if frame and frame != (0, 0, width, height):
        pixels = _on_white_canvas(pixels, frame)
    return Decoded(pixels, width, height, orientation, icc, reduction)


def _load_avif(image: Image.Image, most: int) -> None:
    # The coded picture may be larger than its boxes say: libavif reduces it once it is decoded.
    try:
        with at_most_more_memory(_BYTES_BESIDE + _BYTES_A_PIXEL * most):
            image.load()
    except MemoryError:
        raise UnreadableError("too_many_pixels", "more than its header says") from None


def _on_white_canvas(pixels: Pixels, frame: tuple[int, int, int, int]) -> Pixels:
    # Beside its first frame a GIF is transparent; Pillow takes the colour called its background.
    left, top, right, bottom = frame
    canvas = pixels if pixels.flags.writeable else pixels.copy()
    canvas[:top] = canvas[bottom:] = canvas[:, :left] = canvas[:, right:] = 255
    return canvas


def _still_webp(data: bytes) -> Pixels:
    # Pillow decodes it as an animation, onto a canvas with transparency, in twice the time and memory.
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    size = 8 + int.from_bytes(data[4:8], "little")  # a damaged picture would go on in what lies behind it
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8, min(size, len(data))), flags)
    if pixels is None:
        raise UnreadableError("broken_image", "libwebp cannot decode it")
    if pixels.shape[2] == 3:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), np.uint8)
    return laid_on_white(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA, dst=pixels), np.uint8))


def opened(data: bytes, kind: str) -> ImageFile.ImageFile:
    """Open a picture by the decoder of its sniffed `kind` alone; raises UnreadableError or as Pillow."""
    try:
        return Image.open(BytesIO(without_metadata(data)), formats=[kind])
    except Image.DecompressionBombError as error:
        raise UnreadableError("too_many_pixels", str(error)[:100]) from None


def _check_size(width: int, height: int, limits: Limits, reduction: int = 1) -> None:
    short, long = sorted((width, height))
    most = int(limits.max_pixels * limits.share)
    served = most * min(reduction**2, limits.reducible)
    if short * long > served:
        raise UnreadableError("too_many_pixels", f"{width} x {height}, above {served:,} pixels")
    reason = None
    if not short:
        reason = "broken_image"
    elif short < limits.min_size:
        reason = "too_small"
    elif long > short * limits.max_aspect:
        reason = "aspect"
    if reason:
        raise UnreadableError(reason, f"{width} x {height}")
    if short * long > _LARGE_PIXELS * reduction**2:
        give_back_freed_memory()
