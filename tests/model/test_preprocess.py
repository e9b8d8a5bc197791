import io
import pickle
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
import simplejpeg
import torch
import torchvision.transforms.functional as vision
from PIL import Image, ImageCms

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.images import Picture, process
from clipkit.model.augment import Draws, crop_box
from clipkit.model.preprocess import MEAN, STD, EvalTransform, OpenAITransform, TrainTransform, normalize
from clipkit.pictures import Pixels
from tests.model.conftest import encoded, picture

MODES = ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16"]
SIZES = [(64, 64), (65, 64), (40, 97), (301, 133), (13, 7), (64, 200), (33, 32), (1, 5)]


def assert_planes(pixels: Pixels, size: int) -> None:
    assert pixels.shape == (3, size, size)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


@pytest.fixture(scope="module")
def openai_reference(openai_clip: Any) -> Any:
    from clip.clip import _transform

    return _transform


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("mode", MODES)
def test_evaluation_equals_openais_transform_bit_for_bit(openai_reference: Any, mode: str, size: int) -> None:
    theirs = openai_reference(size)
    for number, (width, height) in enumerate(SIZES):
        image = picture(width, height, mode, seed=number)
        data = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
        opened = Image.open(io.BytesIO(data))
        pixels = EvalTransform(size)(data)
        assert_planes(pixels, size)
        assert torch.equal(normalize(torch.from_numpy(pixels)[None])[0], theirs(opened.convert("RGB")))
        assert torch.equal(OpenAITransform(size)(opened), theirs(opened))


@pytest.mark.parametrize("mode", [*MODES, "YCbCr", "HSV", "LAB", "I", "F", "PA", "RGBa"])
def test_pictures_of_every_mode_and_any_size_equal_openais(openai_reference: Any, mode: str) -> None:
    draw = random.Random(mode)
    for number in range(12):
        wide, high = ((1, 90), (28, 36), (200, 500))[number % 3], ((1, 90), (28, 36), (100, 300))[number % 3]
        width, height, size = draw.randint(*wide), draw.randint(*high), draw.choice((31, 32, 33, 64))
        image = in_mode(
            picture(width, height, "L" if mode in ("I", "F", "I;16") else "RGBA", seed=number), mode
        )
        assert image.mode == mode
        assert torch.equal(OpenAITransform(size)(image), openai_reference(size)(image)), (width, height, size)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "LAB":
        profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
        converted = ImageCms.profileToProfile(image.convert("RGB"), *profiles, outputMode="LAB")
        assert converted is not None
        return converted
    if mode == "PA":
        return image.convert("P").convert("PA")
    return image.convert("RGB").convert(mode) if mode in ("HSV", "YCbCr", "CMYK") else image.convert(mode)


def real_pictures() -> Iterator[tuple[str, bytes]]:
    """A photo and a drawing that matplotlib brings, as the web might have them."""
    folder = Path(matplotlib.get_data_path()) / "sample_data"
    whole = (folder / "grace_hopper.jpg").read_bytes()
    yield "as it came", whole
    yield "drawing", (folder / "logo2.png").read_bytes()
    photo = Image.open(io.BytesIO(whole))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"orientation {orientation}", encoded(photo.resize((301, 222)), "JPEG", exif=exif)
    for name, mode, kind in (
        ("inks", "CMYK", "JPEG"),
        ("inks in a TIFF", "CMYK", "TIFF"),
        ("gray", "L", "JPEG"),
        ("palette", "P", "PNG"),
        ("palette and a clear colour", "P", "GIF"),
        ("clear", "RGBA", "WEBP"),
        ("bits", "1", "PNG"),
        ("16 bits", "I;16", "PNG"),
    ):
        image = photo.convert("L").convert(mode) if mode == "I;16" else photo.convert(mode)
        options = {"transparency": 3} if mode == "P" else {}
        yield name, encoded(image, kind, **options)
    yield "progressive", encoded(photo, "JPEG", progressive=True, quality=30)
    yield (
        "frames",
        encoded(photo.convert("P"), "GIF", save_all=True, append_images=[photo.rotate(9).convert("P")]),
    )


def test_real_pictures_equal_openais(openai_reference: Any) -> None:
    names = []
    for name, data in real_pictures():
        for size in (32, 224):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, about clear colours of a palette
                expected = openai_reference(size)(Image.open(io.BytesIO(data)).convert("RGB"))
            assert torch.equal(normalize(torch.from_numpy(EvalTransform(size)(data))[None])[0], expected), (
                name
            )
        names.append(name)
    assert len(names) == 20


def test_training_crops_are_chosen_as_openclips_are_by_default(open_clip: Any) -> None:
    crop, *rest = open_clip.image_transform(64, is_train=True).transforms
    ours = TrainTransform(64)
    assert type(crop).__name__ == "RandomResizedCrop"
    assert (crop.size, crop.scale, crop.ratio) == ((64, 64), ours.scale, ours.ratio)
    assert (crop.interpolation, crop.antialias) == (vision.InterpolationMode.BICUBIC, True)
    assert [type(each).__name__ for each in rest] == ["MaybeConvertMode", "MaybeToTensor", "Normalize"]
    assert (rest[-1].mean, rest[-1].std) == (MEAN, STD)
    assert (ours.flip, ours.color_jitter, ours.gray_scale_probability) == (False, None, 0.0)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP", "PPM"])
def test_evaluation_of_other_formats(openai_reference: Any, kind: str) -> None:
    data = encoded(picture(90, 70), kind)
    expected = openai_reference(48)(Image.open(io.BytesIO(data)).convert("RGB"))
    assert torch.equal(normalize(torch.from_numpy(EvalTransform(48)(data))[None])[0], expected)


def test_normalize_covers_every_level_and_keeps_its_input(openai_reference: Any) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([levels] * 3, axis=2))
    batch = torch.from_numpy(np.stack([levels] * 3))[None]
    assert torch.equal(normalize(batch)[0], openai_reference(16)(image))
    assert torch.equal(batch[0, 0], torch.from_numpy(levels))
    assert normalize(batch, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_training_crop_is_torchvisions_of_the_same_box(kind: str, mode: str) -> None:
    data = encoded(picture(200, 150, mode), kind)
    opened = Image.open(io.BytesIO(data)).convert("RGB")
    transform = TrainTransform(64, scale=(0.3, 1.0))
    for key in range(20):
        left, top, width, height = crop_box(200, 150, (0.3, 1.0), (3 / 4, 4 / 3), Draws(key))
        mode_of = vision.InterpolationMode.BICUBIC
        expected = vision.resized_crop(opened, top, left, height, width, [64, 64], mode_of)
        difference = transform(data, key).astype(int) - np.asarray(expected).transpose(2, 0, 1)
        assert (difference**2).mean() < 0.05  # 61 dB: rounded otherwise here and there


def test_a_large_jpeg_is_decoded_smaller_to_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(1600, 1200), "JPEG", quality=95)
    decoded: list[tuple[int, ...]] = []

    def decode_jpeg(*values: Any, **options: Any) -> Pixels:
        pixels: Pixels = simplejpeg.decode_jpeg(*values, **options)
        decoded.append(pixels.shape)
        return pixels

    monkeypatch.setattr("clipkit.model.pictures.simplejpeg", SimpleNamespace(decode_jpeg=decode_jpeg))
    for key in range(5):
        left, top, width, height = crop_box(1600, 1200, (0.9, 1.0), (3 / 4, 4 / 3), Draws(key))
        whole = Image.open(io.BytesIO(data)).crop((left, top, left + width, top + height))
        expected = np.asarray(whole.resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        difference = np.abs(TrainTransform(64)(data, key).astype(int) - expected)
        assert difference.mean() < 1.5
    assert decoded == [(150, 200, 3)] * 5, "an eighth of its sides, which is still twice 64"


@pytest.mark.parametrize("mode", MODES)
def test_training_takes_every_mode(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    pixels = TrainTransform(32, flip=True)(encoded(picture(70, 50, mode), kind), 7)
    assert_planes(pixels, 32)


def test_the_key_alone_decides() -> None:
    data = encoded(picture(100, 80), "JPEG")
    transform = TrainTransform(
        32,
        flip=True,
        color_jitter=(0.4, 0.4, 0.4, 0.1),
        color_jitter_probability=0.5,
        gray_scale_probability=0.3,
    )
    copy = pickle.loads(pickle.dumps(transform))
    first = [transform(data, key) for key in range(16)]
    np.random.default_rng().random()
    again = [copy(data, key) for key in reversed(range(16))][::-1]
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert len({pixels.tobytes() for pixels in first}) == 16
    assert np.array_equal(transform(data, 2**64 - 1), transform(data, 2**64 - 1))


def test_flips_are_fair_and_do_not_move_the_crop() -> None:
    data = encoded(picture(100, 80))
    plain, flipped = TrainTransform(32), TrainTransform(32, flip=True)
    flips = 0
    for key in range(200):
        straight, other = plain(data, key), flipped(data, key)
        mirrored = np.array_equal(other, straight[:, :, ::-1])
        assert mirrored or np.array_equal(other, straight)
        flips += mirrored
    assert 70 < flips < 130


def test_grey_of_16_bits_is_trained_on_as_ingest_stores_it() -> None:
    levels = np.linspace(0, 65_535, 64 * 48).astype(np.uint16).reshape(48, 64)
    data = encoded(Image.fromarray(levels), "PNG")
    stored = process(data, IngestConfig(image_size=48))
    assert isinstance(stored, Picture)
    whole = TrainTransform(32, scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3))
    ours, theirs = whole(data, 3), whole(stored.content, 3)
    assert np.abs(ours.astype(int) - theirs).max() <= 3, "JPEG loses that much"
    assert ours.min() < 10 < 245 < ours.max()
