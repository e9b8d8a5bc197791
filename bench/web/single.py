"""What one picture costs, stage by stage, and how near to a careful reduction the quick one comes."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.decoding import Decoded, Limits, decode, sniff
from clipkit.ingest.images import Picture, difference_hash, process
from clipkit.ingest.resize import resized
from clipkit.pictures import Pixels
from clipkit.processes import keep_freed_memory

_CONFIG = IngestConfig()
_SIDE = _CONFIG.image_size
Made = TypeVar("Made")

_LUMA = np.array((0.299, 0.587, 0.114))


class Likeness(NamedTuple):
    """PSNR in dB over RGB and SSIM (Wang et al., 2004) over luma, of one picture."""

    psnr: float
    ssim: float


def stage_seconds(pictures: Sequence[Path]) -> dict[str, float]:
    """CPU seconds a picture, by stage; "all of it" is the whole step as a worker runs it."""
    cv2.setNumThreads(1)
    keep_freed_memory()
    total: defaultdict[str, float] = defaultdict(float)

    def timed(name: str, function: Callable[..., Made], *given: object) -> Made:
        begun = time.thread_time()
        made = function(*given)
        total[name] += time.thread_time() - begun
        return made

    for data in (picture.read_bytes() for picture in pictures):
        assert isinstance(timed("all of it", process, data, _CONFIG), Picture)
        decoded = timed("decode", _decoded, data, sniff(data))
        rgb = _rgb(timed("resize", _resized, decoded))
        timed("encode", simplejpeg.encode_jpeg, np.ascontiguousarray(rgb), _CONFIG.quality, "RGB", "420")
        timed("difference hash", difference_hash, rgb)
        timed("SHA-256", hashlib.sha256, data)
    return {name: seconds / len(pictures) for name, seconds in total.items()}


def likenesses(picture: Path) -> dict[str, Likeness] | None:
    """How near to Pillow's Lanczos over the whole picture several ways come; None for one that is small."""
    data = picture.read_bytes()
    if sniff(data) != "jpeg":
        return None
    decoded = _decoded(data, "jpeg")
    if min(decoded.width, decoded.height) <= _SIDE or decoded.pixels.ndim == 2:
        return None
    whole, size = np.asarray(simplejpeg.decode_jpeg(data, "RGB"), np.uint8), _size(decoded)
    lanczos = np.stack([_lanczos(whole[:, :, channel], size) for channel in range(3)], axis=-1)
    ways = {
        "clipkit: decoded at a fraction, low-pass and cubic": _resized(decoded),
        "clipkit before: decoded at a fraction, mean over areas": _area(decoded.pixels, size),
        "img2dataset: decoded whole, mean over areas": _area(whole, size),
    }
    return {name: _likeness(pixels, lanczos) for name, pixels in ways.items()}


def _decoded(data: bytes, kind: str) -> Decoded:
    return decode(data, kind, short_side=_SIDE, limits=Limits(_CONFIG.max_pixels))


def _size(decoded: Decoded) -> tuple[int, int]:
    scale = min(1.0, _SIDE / min(decoded.width, decoded.height))
    return round(decoded.width * scale), round(decoded.height * scale)


def _resized(decoded: Decoded) -> Pixels:
    extent = decoded.width / decoded.reduction, decoded.height / decoded.reduction
    return resized(decoded.pixels, extent, _size(decoded))


def _rgb(pixels: Pixels) -> Pixels:
    return np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels


def _area(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _lanczos(channel: Pixels, size: tuple[int, int]) -> Pixels:
    exact = Image.fromarray(channel.astype(np.float32)).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(np.clip(np.rint(np.asarray(exact)), 0, 255), np.uint8)


def _likeness(one: Pixels, other: Pixels) -> Likeness:
    error = max(1e-3, float(((one.astype(float) - other) ** 2).mean()))
    return Likeness(10 * float(np.log10(255**2 / error)), _ssim(one @ _LUMA, other @ _LUMA))


def _ssim(one: np.ndarray, other: np.ndarray) -> float:
    def around(values: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.GaussianBlur(values, (11, 11), 1.5))

    mean, other_mean = around(one), around(other)
    variance, other_variance = around(one * one) - mean**2, around(other * other) - other_mean**2
    covariance = around(one * other) - mean * other_mean
    small, smaller = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean * other_mean + small) * (2 * covariance + smaller)
    return float(
        (likeness / ((mean**2 + other_mean**2 + small) * (variance + other_variance + smaller))).mean()
    )
