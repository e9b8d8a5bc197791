import io
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from clipkit.ingest.colour import flattened, laid_on_white, to_srgb
from tests.serving import encoded, photo

PHOTO = photo(90, 61, 3)
FADED = np.dstack([np.asarray(PHOTO), np.linspace(0, 255, 90 * 61, dtype=np.uint8).reshape(61, 90)])
DEEP = np.arange(90 * 61, dtype=np.uint16).reshape(61, 90) * 11
PICTURES: dict[str, Callable[[], bytes]] = {
    "RGB": lambda: encoded(PHOTO, "PNG"),
    "one colour transparent": lambda: encoded(PHOTO, "PNG", transparency=PHOTO.getpixel((5, 40))),
    "RGBA": lambda: encoded(Image.fromarray(FADED), "PNG"),
    "LA": lambda: encoded(Image.fromarray(FADED).convert("LA"), "PNG"),
    "grey": lambda: encoded(PHOTO.convert("L"), "PNG"),
    "black and white": lambda: encoded(PHOTO.convert("1"), "PNG"),
    "palette": lambda: encoded(PHOTO.quantize(16), "PNG"),
    "palette, some transparent": lambda: encoded(PHOTO.quantize(16), "PNG", transparency=bytes(5)),
    "GIF": lambda: encoded(PHOTO.quantize(16), "GIF", transparency=3),
    "16 bits": lambda: encoded(Image.fromarray(DEEP), "PNG"),
    "16 bits, one level transparent": lambda: encoded(Image.fromarray(DEEP), "PNG", transparency=11 * 90),
    "CMYK": lambda: encoded(PHOTO.convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("data", PICTURES.values(), ids=PICTURES.keys())
def test_strips_make_the_same_pixels(data: Callable[[], bytes]) -> None:
    image = Image.open(io.BytesIO(data()))
    image.load()
    whole, _ = flattened(image.copy())
    for strip_pixels in (1, 90 * 7, 90 * 60):
        pixels, _ = flattened(image.copy(), strip_pixels)
        assert pixels.shape[:2] == (61, 90)
        assert np.array_equal(pixels[..., :3] if pixels.ndim == 3 else pixels, whole)


def grey_profile(gamma: float) -> bytes:
    """A profile of grey (ICC.1:2001) with nothing but its white and its curve."""
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv" + bytes(4) + struct.pack(">IHxx", 1, round(gamma * 256))
    table = struct.pack(">I4sII4sII", 2, b"wtpt", 156, len(white), b"kTRC", 156 + len(white), len(curve))
    content = table + white + curve
    header = struct.pack(
        ">I4xI4s4s4s12x4s", 128 + len(content), 0x02100000, b"mntr", b"GRAY", b"XYZ ", b"acsp"
    )
    return header + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48) + content


def test_a_profile_is_no_program() -> None:
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    black = b"matf" + struct.pack(">4xHH12f", 3, 3, *[0] * 12)
    steps = b"mpet" + struct.pack(">4xHHIII", 3, 3, 1, 24, len(black)) + black  # ICC.1:2010, 10.14
    entry = srgb.index(b"cprt")
    srgb[entry : entry + 12] = b"D2B0" + struct.pack(">II", len(srgb), len(steps))
    srgb[:4] = (len(srgb) + len(steps)).to_bytes(4, "big")
    pixels = np.asarray(PHOTO)
    assert np.array_equal(to_srgb(pixels, bytes(srgb + steps)), pixels)


@pytest.mark.parametrize("mode", ["L", "LA"])
@pytest.mark.parametrize("strip_pixels", [100, 10_000])
def test_a_profile_of_grey_is_honoured_with_transparency_too(mode: str, strip_pixels: int) -> None:
    data = encoded(Image.new(mode, (90, 61), 128), "PNG", icc_profile=grey_profile(1.0))
    image = Image.open(io.BytesIO(data))
    image.load()
    if mode == "LA":
        image.putalpha(255)
    rgb = to_srgb(*flattened(image, strip_pixels))
    assert rgb.shape == (61, 90, 3)
    assert np.abs(rgb.astype(int) - 188).max() < 3  # half of the light, as sRGB has it


@pytest.mark.parametrize("strip_pixels", [1, 90 * 7, 90 * 61])
def test_pixels_are_laid_on_white_strip_by_strip_as_pillow_does(strip_pixels: int) -> None:
    expected = Image.new("RGBA", PHOTO.size, "white")
    expected.paste(Image.fromarray(FADED), mask=Image.fromarray(FADED[:, :, 3]))
    laid = laid_on_white(FADED.copy(), strip_pixels)
    assert np.array_equal(laid[:, :, :3], np.asarray(expected)[:, :, :3])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "mode", "side"),
    [
        ("PNG", "I;16", 6000),
        ("PNG", "LA", 6000),
        ("PNG", "RGB", 6000),
        ("PNG", "RGBA", 6000),
        ("WEBP", "RGBA", 5190),
        ("AVIF", "RGBA", 3540),
    ],
)
def test_the_largest_pictures_take_little_more_than_their_pixels(
    kind: str, mode: str, side: int, tmp_path: Path
) -> None:
    options = {"method": 0} if kind == "WEBP" else {"speed": 10} if kind == "AVIF" else {"compress_level": 1}
    Image.new(mode, (side, side), 60).save(tmp_path / "picture", kind, **options)
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "picture"], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 230_000_000


PROGRAM = """
import sys
from pathlib import Path
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.images import Picture, process
from clipkit.processes import peak_memory
data = Path(sys.argv[1]).read_bytes()
before = peak_memory()
assert isinstance(process(data, IngestConfig()), Picture)
print(peak_memory() - before)
"""
