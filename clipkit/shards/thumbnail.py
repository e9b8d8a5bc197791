"""Small pictures for pages, of what strangers stored."""

from io import BytesIO

from PIL import Image

from clipkit.pictures import MAX_PIXELS, check_scans
from clipkit.shards.picture_check import opened_picture

_QUALITY = 80


def thumbnail(data: bytes, side: int) -> bytes:
    """Return a picture as a JPEG of at most `side` by `side` pixels, on white. Raises anything for none."""
    check_scans(data)
    with opened_picture(data) as picture:
        if picture.width * picture.height > 3 * MAX_PIXELS:
            raise ValueError(f"{picture.width} × {picture.height} pixels are too many")
        picture.draft("RGB", (side, side))
        small = _eight_bits(picture) if picture.mode.startswith("I") else picture
        small.thumbnail((side, side))
        flat = Image.new("RGB", small.size, "white")
        whole = small.convert("RGBA")
        flat.paste(whole, mask=whole)
    made = BytesIO()
    flat.save(made, "JPEG", quality=_QUALITY)
    return made.getvalue()


def _eight_bits(grey: Image.Image) -> Image.Image:
    return grey.convert("I").point(lambda level: level / 257).convert("L")  # clips instead, of itself
