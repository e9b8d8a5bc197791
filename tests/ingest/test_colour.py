import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from clipkit.ingest.colour import flattened
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
    whole, _ = flattened(image)
    for strip_pixels in (1, 90 * 7, 90 * 60):
        pixels, _ = flattened(image, strip_pixels)
        assert pixels.shape[:2] == (61, 90) and np.array_equal(pixels, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "depth", "megabytes"),
    [(0, 16, 250), (2, 8, 350), (6, 8, 400)],
    ids=["16-bit grey", "RGB", "RGBA"],
)
def test_the_largest_pictures_take_little_more_than_their_pixels(
    kind: int, depth: int, megabytes: int
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(kind), str(depth)], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < megabytes * 1_000_000


PROGRAM = """
import struct, sys, zlib
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.images import Picture, process
from clipkit.processes import peak_memory
kind, depth = map(int, sys.argv[1:])
line = bytes(1 + 6000 * {0: 1, 2: 3, 6: 4}[kind] * depth // 8)
content = zlib.compressobj(1)
body = b"".join(content.compress(line) for _ in range(6000)) + content.flush()
header = struct.pack(">IIBBBBB", 6000, 6000, depth, kind, 0, 0, 0)
pieces = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
data = b"\\x89PNG\\r\\n\\x1a\\n" + b"".join(
    struct.pack(">I", len(each)) + name + each + struct.pack(">I", zlib.crc32(name + each))
    for name, each in pieces
)
before = peak_memory()
assert isinstance(process(data, IngestConfig()), Picture)
print(peak_memory() - before)
"""
