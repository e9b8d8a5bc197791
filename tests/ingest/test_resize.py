from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.images import Picture, process
from clipkit.ingest.resize import resized
from clipkit.pictures import Pixels
from tests.serving import encoded


def waves(width: int, height: int, period: float) -> Pixels:
    """Grey (H, W): cosines along both axes."""
    across, down = (128 + 60 * np.cos(np.arange(size) * 2 * np.pi / period) for size in (width, height))
    return np.asarray(np.rint((across[None, :] + down[:, None]) / 2), np.uint8)


def texture(width: int, height: int, seed: int) -> Pixels:
    """RGB (H, W, 3) with detail of every size, less of the finer."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).resize((width, height)))
        for side in (4, 16, 64, 256)
    ]
    weighted = [layer * weight for layer, weight in zip(layers, (0.4, 0.3, 0.2, 0.1), strict=True)]
    return np.asarray(np.rint(np.sum(weighted, axis=0)), np.uint8)


def error(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("size", [(256, 192), (300, 225), (399, 299)])
def test_it_is_nearer_to_lanczos_than_the_mean_over_areas(size: tuple[int, int]) -> None:
    pixels = texture(400, 300, seed=size[0])
    lanczos = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    area = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    assert error(resized(pixels, (400, 300), size), lanczos) < error(area, lanczos)


@pytest.mark.parametrize("shape", [(300, 400), (300, 400, 3)])
@pytest.mark.parametrize("size", [(400, 300), (256, 192), (100, 75), (1, 1)])
def test_the_result_has_the_size(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    result = resized(np.zeros(shape, np.uint8), (400, 300), size)
    assert result.shape == (size[1], size[0], *shape[2:])


def test_what_is_finer_than_the_result_can_show_is_smoothed_not_aliased() -> None:
    stripes = np.tile(np.array([[0, 255]], np.uint8), (300, 200))
    assert resized(stripes, (400, 300), (205, 154)).std() < 0.15 * stripes.std()


@pytest.mark.parametrize("rest", [0.125, 0.5, 0.875])
@pytest.mark.parametrize("factor", [1.3, 3])
def test_an_extent_ends_within_the_last_pixels(rest: float, factor: float) -> None:
    ramp = np.tile(np.arange(200, dtype=np.uint8), (150, 1))
    extent = 199 + rest, 149 + rest
    size = round(extent[0] / factor), round(extent[1] / factor)
    centres = (np.arange(size[0]) + 0.5) * extent[0] / size[0] - 0.5
    assert np.abs(resized(ramp, extent, size) - centres)[:, :-1].max() < 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(("long", "short"), [(1, 1), (1000, 257), (259, 257), (513, 512), (1031, 1025)])
def test_a_short_side_one_pixel_above_is_reduced_and_all_others_stay(
    kind: str, long: int, short: int
) -> None:
    upright, lying = (
        process(encoded(Image.fromarray(texture(*size, seed=0)), kind), IngestConfig())
        for size in ((short, long), (long, short))
    )
    assert isinstance(upright, Picture) and isinstance(lying, Picture)
    expected = (long, short) if short <= 256 else (round(long * 256 / short), 256)
    assert (upright.height, upright.width) == (lying.width, lying.height) == expected
    for made in (upright, lying):
        with Image.open(BytesIO(made.content)) as stored:
            assert stored.size == (made.width, made.height)


def test_at_the_size_nothing_is_resampled_and_a_pixel_above_hardly_anything() -> None:
    pixels = texture(300, 257, seed=1)
    assert resized(pixels[:256], (300, 256), (300, 256)) is not None
    assert np.array_equal(resized(pixels[:256], (300, 256), (300, 256)), pixels[:256])
    reduced = resized(pixels, (300, 257), (299, 256))
    lanczos = np.asarray(Image.fromarray(pixels).resize((299, 256), Image.Resampling.LANCZOS))
    assert error(reduced, lanczos) < 1


@pytest.mark.parametrize("side", [1030, 1543, 2049, 2061, 4097])
def test_jpegs_decoded_at_a_fraction_are_not_stretched(side: int) -> None:
    picture = Image.fromarray(waves(side, side, period=side / 20.25))
    made = process(encoded(picture, quality=95), IngestConfig())
    assert isinstance(made, Picture)
    lanczos = np.asarray(picture.resize((256, 256), Image.Resampling.LANCZOS))
    stored = cv2.imdecode(np.frombuffer(made.content, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert stored is not None
    assert np.abs(np.asarray(stored, float) - lanczos).max() < 8
