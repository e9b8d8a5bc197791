"""Random choices for training pictures, drawn from the sample's key alone, distributed as torchvision's."""

import math

from PIL import Image, ImageEnhance

from clipkit.splitmix import INCREMENT, MASK, mix

CROP_TRIES = 10


class Draws:
    """A stream of uniform numbers that depends on its 64-bit key alone (splitmix64)."""

    def __init__(self, key: int) -> None:
        self._state = key & MASK

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw a number in [low, high)."""
        drawn = mix(self._state)
        self._state = (self._state + INCREMENT) & MASK
        return low + (high - low) * (drawn >> 11) * 2.0**-53

    def below(self, bound: int) -> int:
        """Draw a whole number in [0, bound)."""
        return int(self.uniform() * bound)


def crop_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], draws: Draws
) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random crop as torchvision's RandomResizedCrop draws it.

    The area is uniform in `scale`, the aspect ratio log-uniform in `ratio`; after ten crops that do not fit,
    it is the largest central one with a ratio in bounds.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(CROP_TRIES):
        area = width * height * draws.uniform(*scale)
        aspect = math.exp(draws.uniform(low, high))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = draws.below(height - crop_height + 1)
            left = draws.below(width - crop_width + 1)
            return left, top, crop_width, crop_height
    crop_width, crop_height = width, height
    if width < ratio[0] * height:
        crop_height = min(height, max(1, round(width / ratio[0])))
    elif width > ratio[1] * height:
        crop_width = min(width, max(1, round(height * ratio[1])))
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def jittered(
    picture: Image.Image, strengths: tuple[float, float, float, float], probability: float, draws: Draws
) -> Image.Image:
    """Change an RGB picture's brightness, contrast, saturation and hue, in random order, with `probability`.

    The first three `strengths` s scale by a factor in [max(0, 1 − s), 1 + s], hue turns by up to its strength
    of a full circle, as torchvision's ColorJitter does.
    """
    if draws.uniform() >= probability:
        return picture
    steps = [0, 1, 2, 3]
    for last in (3, 2, 1):  # Fisher–Yates
        other = draws.below(last + 1)
        steps[last], steps[other] = steps[other], steps[last]
    for step in steps:
        strength = strengths[step]
        if strength and step == 3:
            picture = turned_hue(picture, draws.uniform(-strength, strength))
        elif strength:
            enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[step]
            picture = enhance(picture).enhance(draws.uniform(max(0.0, 1.0 - strength), 1.0 + strength))
    return picture


def turned_hue(picture: Image.Image, turn: float) -> Image.Image:
    """Turn the hue of an RGB picture by `turn` of a full circle."""
    hue, saturation, value = picture.convert("HSV").split()
    shift = int(turn * 255)
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def grayed(picture: Image.Image, probability: float, draws: Draws) -> Image.Image:
    """Take the colour out of an RGB picture, with `probability`; it stays RGB."""
    return picture.convert("L").convert("RGB") if draws.uniform() < probability else picture
