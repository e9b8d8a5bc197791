"""The evaluation's pixels beside Pillow's and torchvision's: equal in every bit."""

import io
import random
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torchvision.transforms.functional as vision
from PIL import Image

from clipkit.errors import DatasetError
from clipkit.model.pictures import decode_jpeg, jpeg_size, rgb_pixels
from clipkit.model.resize import centered_square
from clipkit.pictures import Pixels
from tests.model.conftest import encoded, picture

BICUBIC = vision.InterpolationMode.BICUBIC


def torchvisions(pixels_HWC: Pixels, size: int) -> Pixels:
    image = vision.resize(Image.fromarray(pixels_HWC), size, BICUBIC)
    return np.asarray(vision.center_crop(image, size))


def noise(width: int, height: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_squares_of_any_size_equal_torchvisions(seed: int) -> None:
    draw = random.Random(seed)
    for number in range(60):
        short, size = draw.randint(1, 300), draw.choice((1, 2, 30, 31, 33, 64, 224))
        long = draw.choice((short, draw.randint(short, 2 * short + 2), draw.randint(short, 6 * short + 1)))
        width, height = draw.choice(((short, long), (long, short)))
        pixels = noise(width, height, number)
        expected = torchvisions(pixels, size)
        assert np.array_equal(centered_square(pixels, size), expected), (width, height, size)


@pytest.mark.parametrize("ratio", [(1, 2), (2, 1)])
def test_squares_about_where_pillow_changes_its_order_equal_torchvisions(ratio: tuple[int, int]) -> None:
    for short in (100, 101, 225, 300):
        for more in (-1, 0, 1, 2):
            width, height = (short * part + more * (part == 2) for part in ratio)
            pixels = noise(width, height, short)
            assert np.array_equal(centered_square(pixels, 64), torchvisions(pixels, 64)), (width, height)


def test_the_input_stays_as_it_is() -> None:
    pixels = noise(50, 37, 0)
    before = pixels.copy()
    centered_square(pixels, 16)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("size", [(1, 300_000), (300_000, 1)])
def test_what_would_grow_beyond_all_bounds_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DatasetError, match="would be resized to"):
        centered_square(np.zeros((size[1], size[0], 3), np.uint8), 224)


def jpegs() -> list[tuple[str, bytes]]:
    """A photo as JPEGs of every kind that cameras and programs write."""
    photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    made = []
    for number, (width, height) in enumerate(((500, 375), (375, 500), (97, 131), (33, 17), (8, 8), (1, 1))):
        image = photo.resize((width, height))
        for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
            for progressive in (False, True):
                options: dict[str, Any] = {"subsampling": subsampling, "progressive": progressive}
                options |= {"quality": (30, 75, 95)[number % 3], "optimize": bool(number % 2)}
                options |= {"restart_marker_blocks": 3} if width == 97 else {}
                made.append((f"{width} {options}", encoded(image, "JPEG", **options)))
        made.append((f"{width} gray", encoded(image.convert("L"), "JPEG")))
        made.append((f"{width} inks", encoded(image.convert("CMYK"), "JPEG")))
        made.append((f"{width} kept as RGB", encoded(image, "JPEG", keep_rgb=True)))
    exif = Image.Exif()
    exif[0x0112] = 6
    return [*made, ("turned", encoded(photo, "JPEG", exif=exif))]


def test_pixels_of_jpegs_equal_pillows() -> None:
    fast = 0
    for name, data in jpegs():
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert np.array_equal(rgb_pixels(data), expected), name
        size = jpeg_size(data)
        fast += size is not None and decode_jpeg(data, *size) is not None
    assert fast == 43  # all but inks, and those kept as RGB: else Pillow was compared with itself


def test_jpegs_with_a_fault_are_left_to_pillow() -> None:
    data = encoded(picture(90, 70), "JPEG")
    with pytest.raises(DatasetError, match="truncated"):
        rgb_pixels(data[: len(data) // 2])
    trailing = data + b"what a camera adds"
    assert np.array_equal(rgb_pixels(trailing), rgb_pixels(data))
    doubled = data[:-2] + b"\0" * 9 + data[-2:]  # libjpeg warns of extraneous bytes
    size = jpeg_size(doubled)
    assert size is not None
    assert decode_jpeg(doubled, *size) is None
    assert np.array_equal(rgb_pixels(doubled), np.asarray(Image.open(io.BytesIO(doubled)).convert("RGB")))
