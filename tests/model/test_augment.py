import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision.transforms.functional as vision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from clipkit.model.augment import Draws, crop_box, grayed, jittered, turned_hue
from tests.model.conftest import picture


@given(
    st.integers(1, 500),
    st.integers(1, 500),
    st.sampled_from([(0.08, 1.0), (0.9, 1.0), (1.0, 1.0)]),
    st.integers(0, 2**64 - 1),
)
def test_a_crop_lies_within_the_picture(
    width: int, height: int, scale: tuple[float, float], key: int
) -> None:
    left, top, crop_width, crop_height = crop_box(width, height, scale, (3 / 4, 4 / 3), Draws(key))
    assert left >= 0
    assert top >= 0
    assert crop_width >= 1
    assert crop_height >= 1
    assert left + crop_width <= width
    assert top + crop_height <= height
    if min(width, height) > 50 and scale[0] < 0.5 and max(width, height) < 2 * min(width, height):
        assert crop_width * crop_height >= 0.07 * width * height
        assert 0.7 < crop_width / crop_height < 1.43


def test_crops_are_distributed_as_torchvisions() -> None:
    from torchvision.transforms import RandomResizedCrop

    scale, ratio = (0.1, 1.0), (3 / 4, 4 / 3)
    blank = Image.new("RGB", (300, 220))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [RandomResizedCrop.get_params(blank, list(scale), list(ratio)) for _ in range(4_000)]
    theirs = np.array([(left, top, width, height) for top, left, height, width in drawn], dtype=float)
    boxes = [crop_box(300, 220, scale, ratio, Draws(key)) for key in range(4_000)]
    ours = np.array(boxes, dtype=float)
    for ours_of, theirs_of in zip(_measures(ours), _measures(theirs), strict=True):
        ours_sorted, theirs_sorted = np.sort(ours_of), np.sort(theirs_of)
        both = np.concatenate([ours_sorted, theirs_sorted])
        steps = [np.searchsorted(x, both, side="right") / 4_000 for x in (ours_sorted, theirs_sorted)]
        # Kolmogorov–Smirnov: beyond 0.045 with probability 0.0006 for equal distributions.
        assert np.abs(steps[0] - steps[1]).max() < 0.045


def _measures(boxes: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    left, top, width, height = boxes.T
    return [left, top, width * height, width / height]


def test_draws_are_uniform_and_in_range() -> None:
    draws = Draws(12)
    numbers = np.array([draws.uniform(2.0, 4.0) for _ in range(10_000)])
    assert 2.0 <= numbers.min() < 2.01
    assert 3.99 < numbers.max() < 4.0
    assert abs(numbers.mean() - 3.0) < 0.03
    assert {draws.below(3) for _ in range(200)} == {0, 1, 2}


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.0, 0.1, 0.5])
def test_hue_turns_as_torchvisions(turn: float) -> None:
    image = picture(40, 30)
    ours, theirs = np.asarray(turned_hue(image, turn)), np.asarray(vision.adjust_hue(image, turn))
    assert np.array_equal(ours, theirs)


def test_jitter_stays_within_its_strength_and_probability() -> None:
    image = picture(40, 30)
    assert jittered(image, (0.4, 0.4, 0.4, 0.1), 0.0, Draws(1)) is image
    brightened = [jittered(image, (0.5, 0.0, 0.0, 0.0), 1.0, Draws(key)) for key in range(50)]
    level = np.asarray(image).mean()
    factors = [np.asarray(other).mean() / level for other in brightened]
    assert 0.49 < min(factors) < 0.6
    assert 1.3 < max(factors) <= 1.5
    changed = [jittered(image, (0.4, 0.4, 0.4, 0.1), 0.5, Draws(key)) is not image for key in range(200)]
    assert 70 < sum(changed) < 130


def test_gray_pictures_are_gray() -> None:
    gray = np.asarray(grayed(picture(40, 30), 1.0, Draws(0)))
    expected = np.asarray(ImageOps.grayscale(picture(40, 30)))
    assert np.array_equal(gray, np.stack([expected] * 3, axis=2))
    assert grayed(picture(40, 30), 0.0, Draws(0)).mode == "RGB"
