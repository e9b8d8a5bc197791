import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as vision
from PIL import Image

from clipkit.model.augment import Draws, crop_box
from clipkit.model.pictures import Pixels
from clipkit.model.preprocess import EvalTransform, OpenAITransform, TrainTransform, normalize
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
        expected = theirs(Image.open(io.BytesIO(data)))
        pixels = EvalTransform(size)(data)
        assert_planes(pixels, size)
        assert torch.equal(normalize(torch.from_numpy(pixels)[None])[0], expected)
        assert torch.equal(OpenAITransform(size)(Image.open(io.BytesIO(data))), expected)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP", "PPM"])
def test_evaluation_of_other_formats(openai_reference: Any, kind: str) -> None:
    data = encoded(picture(90, 70), kind)
    expected = openai_reference(48)(Image.open(io.BytesIO(data)))
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


def test_a_large_jpeg_is_decoded_smaller_to_nearly_the_same() -> None:
    data = encoded(picture(1600, 1200), "JPEG", quality=95)
    for key in range(5):
        left, top, width, height = crop_box(1600, 1200, (0.9, 1.0), (3 / 4, 4 / 3), Draws(key))
        whole = Image.open(io.BytesIO(data)).crop((left, top, left + width, top + height))
        expected = np.asarray(whole.resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        difference = np.abs(TrainTransform(64)(data, key).astype(int) - expected)
        assert difference.mean() < 1.5


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
