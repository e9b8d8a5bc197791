"""Pixels of any colour space to sRGB. Shapes: H height, W width, C channels."""

from functools import lru_cache
from io import BytesIO

import numpy as np
import pyarrow as pa
from PIL import Image, ImageCms

from clipkit.pictures import EIGHT_BITS, Pixels

_MAX_PROFILE_BYTES = 4_000_000
_COLOURS = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), axis=-1).reshape(1, -1, 3).astype(np.uint8)
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_GREY = ("1", "L", "LA")
_FOUR_BYTES = ("RGB", "RGBA", "LA")  # of memory a pixel, in Pillow

Image.core.set_use_block_allocator(1)  # type: ignore[attr-defined]  # in one piece, for _as_it_lies


def to_srgb(pixels: Pixels, icc: bytes | None) -> Pixels:
    """Convert grey (H, W) or RGB (H, W, 3) uint8 pixels to sRGB (H, W, 3) by their ICC profile, if any.

    A profile that is damaged or for another kind of picture is ignored, as browsers do.
    """
    mode = "L" if pixels.ndim == 2 else "RGB"
    transform = _transform(icc, mode) if icc else None
    if transform:
        return np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), transform))
    return np.stack([pixels] * 3, axis=-1) if mode == "L" else pixels


def flattened(image: Image.Image, strip_pixels: int = 1_000_000) -> tuple[Pixels, bytes | None]:
    """Return a loaded picture as grey (H, W), RGB (H, W, 3) or RGBX (H, W, 4) pixels, and the profile still
    to be applied; the picture is no longer to be used.

    Transparency is laid on white; 16-bit grey is scaled to 8; CMYK is converted here, by its profile if
    it has one. That is done strip by strip, and where it lies if four bytes of a pixel are there already:
    each step of Pillow's makes a copy.
    """
    width, height = image.size
    rows = max(1, strip_pixels // width)
    if rows >= height:
        return _flattened(image)
    strips = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    if image.mode in _FOUR_BYTES:
        for strip in strips if image.has_transparency_data else ():
            image.paste(Image.fromarray(_flattened(image.crop(strip))[0]), strip)
        pixels = _as_it_lies(image)
        return pixels[:, :, 0].copy() if image.mode in _GREY else pixels, image.info.get("icc_profile")
    first, icc = _flattened(image.crop(strips[0]))
    pixels = np.empty((height, *first.shape[1:]), np.uint8)
    for strip in strips:
        pixels[strip[1] : strip[3]], _ = _flattened(image.crop(strip))
    return pixels, icc


def laid_on_white(rgba: Pixels, strip_pixels: int = 1_000_000) -> Pixels:
    """Lay RGBA pixels (H, W, 4) on white, where they lie; they are RGBX then."""
    rows = max(1, strip_pixels // rgba.shape[1])
    for top in range(0, len(rgba), rows):
        strip = rgba[top : top + rows]
        strip[:, :, :3] = _flattened(Image.fromarray(strip))[0]
    return rgba


def _as_it_lies(image: Image.Image) -> Pixels:
    width, height = image.size
    values = pa.array(image).flatten().to_numpy()
    return np.asarray(values.reshape(height, width, 4), np.uint8)


def _flattened(image: Image.Image) -> tuple[Pixels, bytes | None]:
    icc, transparent = image.info.get("icc_profile"), image.info.get("transparency")
    if image.mode.startswith("I"):
        levels = EIGHT_BITS.copy()
        if isinstance(transparent, int):
            levels[transparent : transparent + 1] = 255
        return levels[np.clip(np.asarray(image), 0, 65535)], icc
    if image.mode == "CMYK":
        transform = _transform(icc, "CMYK") if icc else None
        rgb = ImageCms.applyTransform(image, transform) if transform else image.convert("RGB")
        return np.asarray(rgb), None
    if isinstance(transparent, tuple) and max(transparent) > 255:  # of 16 bits; Pillow keeps the upper 8
        image.info["transparency"] = tuple(level >> 8 for level in transparent)
    mode = "L" if image.mode in _GREY else "RGB"
    if image.has_transparency_data:
        whole = image.convert(mode + "A")
        white = Image.new(mode, image.size, "white")
        white.paste(whole.convert(mode), mask=whole.getchannel("A"))
        return np.asarray(white), icc
    return np.asarray(image.convert(mode)), icc


def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    if len(icc) > _MAX_PROFILE_BYTES:
        return None
    # Profiles that a tool makes anew for each picture differ in the date and the ID of their headers alone.
    return _built_transform(icc[:24] + bytes(12) + icc[36:84] + bytes(16) + icc[100:], mode)


@lru_cache(maxsize=32)
def _built_transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(_without_programs(icc)))
        fits = _SPACES.get(profile.profile.xcolor_space.strip()) == mode
        if not fits:
            return None
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
        return None if mode == "RGB" and _changes_little(transform) else transform
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def _without_programs(icc: bytes) -> bytes:
    """Return a profile without its tags of floating-point processing (ICC.1:2010, 9.2.17, D2B0 to D2B3).

    They are lists of any number of steps: with 300 kB of them lcms is busy for nine seconds. Browsers do not
    read them; what they say, the profile's other tags say less exactly.
    """
    kept = bytearray(icc)
    for place in range(132, min(132 + 12 * int.from_bytes(icc[128:132], "big"), len(icc)), 12):
        if icc[place : place + 3] == b"D2B":
            kept[place] = ord("-")  # a tag that nobody knows
    return bytes(kept)


def _changes_little(transform: ImageCms.ImageCmsTransform) -> bool:
    # Names tell nothing: sRGB itself has a hundred, and one that is linear is called "built-in Linear sRGB".
    changed = np.asarray(ImageCms.applyTransform(Image.fromarray(_COLOURS), transform))
    return bool(np.abs(changed.astype(np.int16) - _COLOURS).max() <= 1)
