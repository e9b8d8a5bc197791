import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipkit.ingest.colour import flattened, laid_on_white
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
        expected = np.dstack([whole] * 3) if pixels.ndim > whole.ndim else whole
        assert np.array_equal(pixels[..., :3] if pixels.ndim == 3 else pixels, expected)


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
