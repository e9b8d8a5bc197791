"""Pictures to model input: the evaluation transform bit for bit, OpenCLIP's training crop by a key.

B batch, 3 colours, H and W pixels. The loader carries uint8; `normalize` runs on the device.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from clipkit.model.augment import Draws, crop_box, grayed, jittered
from clipkit.model.pictures import check_pixels, check_whole_jpeg, decode_jpeg, jpeg_size, opened, rgb_pixels
from clipkit.model.resize import centered_box, centered_square
from clipkit.pictures import EIGHT_BITS, Pixels

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
OVERSAMPLING = 2
_APPEARANCE = 0x636F6C6F7572  # the crop and the later choices draw from two streams


@dataclass(frozen=True)
class EvalTransform:
    """Picture bytes → uint8 (3, H, W) of side `image_size`: OpenAI's `_transform` before its ToTensor.

    The picture is made RGB before that, as by torchvision's ImageFolder and webdataset, and so in OpenCLIP
    and CLIP_benchmark. That tells for palettes, transparency and inks; `OpenAITransform` takes those as they
    are. A rotation that the EXIF data ask for is applied by none of them.
    """

    image_size: int

    def __call__(self, image: bytes, key: int = 0) -> Pixels:
        """Decode, resize the short side, crop the centre; `key` is not used (the loader passes one)."""
        return _planes(centered_square(rgb_pixels(image), self.image_size))


class Crop(NamedTuple):
    """A decoded part of a picture: uint8 pixels, and the edges (left, top, right, bottom) within them."""

    pixels_HWC: Pixels
    box: tuple[float, float, float, float] | None = None
    """None: they are all of it"""


@dataclass(frozen=True)
class TrainTransform:
    """Picture bytes and a sample's key → uint8 (3, H, W): a bicubic random resized crop, as OpenCLIP's.

    The key decides every choice. 16-bit grey is scaled to 8, as ingest does; elsewhere it is clipped. Off
    unless asked for: `flip` (half of the samples), `color_jitter` (brightness, contrast, saturation, hue)
    with its probability, `gray_scale_probability`.
    """

    image_size: int
    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    color_jitter: tuple[float, float, float, float] | None = None
    color_jitter_probability: float = 0.8
    gray_scale_probability: float = 0.0

    def __call__(self, image: bytes, key: int) -> Pixels:
        """Decode, crop, resize, augment. Raises DatasetError for what cannot be decoded."""
        return self.augment(self.decode(image, key), key)

    def decode(self, image: bytes, key: int) -> Crop:
        """Decode the part of the picture that its key chooses. Raises as `__call__`."""
        return self._jpeg_crop(image, key) or self._crop(image, key)

    def augment(self, crop: Crop, key: int) -> Pixels:
        """Resize that part, and change it as the key chooses."""
        draws = Draws(key ^ _APPEARANCE)
        pixels_HWC = _resized(crop, self.image_size)
        if self.color_jitter is not None or self.gray_scale_probability:
            pixels_HWC = self._recolored(pixels_HWC, draws)
        if self.flip and draws.uniform() < 0.5:
            pixels_HWC = pixels_HWC[:, ::-1]
        return _planes(pixels_HWC)

    def _box(self, width: int, height: int, key: int) -> tuple[int, int, int, int]:
        check_pixels(width, height)
        return crop_box(width, height, self.scale, self.ratio, Draws(key))

    def _jpeg_crop(self, image: bytes, key: int) -> Crop | None:
        size = jpeg_size(image)
        if size is None:
            return None
        width, height = size
        left, top, crop_width, crop_height = self._box(width, height, key)
        # Decoded at a DCT scale at which the crop still has at least twice the pixels wanted, each way.
        wanted = OVERSAMPLING * self.image_size
        pixels = decode_jpeg(image, wanted * width / crop_width, wanted * height / crop_height)
        if pixels is None:
            return None
        if pixels.shape[:2] == (height, width):
            return Crop(pixels[top : top + crop_height, left : left + crop_width])
        # Exactly so many eighths: the last pixels of what was decoded may reach beyond the picture's end.
        scale = round(8 * pixels.shape[1] / width) / 8
        edges = (left * scale, top * scale, (left + crop_width) * scale, (top + crop_height) * scale)
        first_x, first_y, last_x, last_y = *map(math.floor, edges[:2]), *map(math.ceil, edges[2:])
        box = (edges[0] - first_x, edges[1] - first_y, edges[2] - first_x, edges[3] - first_y)
        return Crop(pixels[first_y:last_y, first_x:last_x], box)

    def _crop(self, image: bytes, key: int) -> Crop:
        with opened(image) as picture:
            check_whole_jpeg(image)
            left, top, width, height = self._box(*picture.size, key)
            box = (left, top, left + width, top + height)
            if picture.mode.startswith("I;16"):  # Pillow makes white of all but the darkest
                grey = EIGHT_BITS[np.asarray(picture.crop(box))]
                return Crop(np.stack([grey] * 3, axis=-1))
            return Crop(np.array(picture.convert("RGB").crop(box)))

    def _recolored(self, pixels_HWC: Pixels, draws: Draws) -> Pixels:
        picture = Image.fromarray(pixels_HWC)
        if self.color_jitter is not None:
            picture = jittered(picture, self.color_jitter, self.color_jitter_probability, draws)
        if self.gray_scale_probability:
            picture = grayed(picture, self.gray_scale_probability, draws)
        return np.asarray(picture)


@dataclass(frozen=True)
class OpenAITransform:
    """PIL picture → float32 (3, H, W): what `clip.load` returns beside the model."""

    image_size: int

    def __call__(self, picture: Image.Image) -> Tensor:
        """Resize, crop, scale to [0, 1], normalise."""
        pixels = torch.from_numpy(_planes(np.asarray(_centered(picture, self.image_size))))
        return normalize(pixels[None])[0]


def normalize(images_BCHW: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (B, 3, H, W) → `dtype`, same device, equal to torchvision's ToTensor and Normalize in float32."""
    mean, std = _statistics(images_BCHW.device)
    return images_BCHW.to(torch.float32).div_(255).sub_(mean).div_(std).to(dtype)


@cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return mean, std


def _centered(picture: Image.Image, size: int) -> Image.Image:
    # The order is resize, crop, then RGB: of a palette, for one, other pixels come out than of its RGB.
    resized, box = centered_box(*picture.size, size)
    if resized != picture.size:
        picture = picture.resize(resized, Image.Resampling.BICUBIC)
    return picture.crop(box).convert("RGB")


def _resized(crop: Crop, size: int) -> Pixels:
    if crop.box is not None:  # Pillow alone can take a part whose edges are not whole
        part = Image.fromarray(crop.pixels_HWC)
        return np.asarray(part.resize((size, size), Image.Resampling.BICUBIC, box=crop.box))
    # Pillow's bicubic to within rounding (bench/RESULTS.md), at a sixth of its cost. The kernel is at its
    # fastest on pixels that lie one after the other.
    pixels_BHWC = torch.from_numpy(np.ascontiguousarray(crop.pixels_HWC))[None]
    images_BCHW = interpolate(pixels_BHWC.permute(0, 3, 1, 2), (size, size), mode="bicubic", antialias=True)
    return np.asarray(images_BCHW[0].permute(1, 2, 0).numpy(), np.uint8)


def _planes(pixels_HWC: Pixels) -> Pixels:
    planes = np.empty((3, *pixels_HWC.shape[:2]), np.uint8)
    cv2.split(pixels_HWC, list(planes))
    return planes
