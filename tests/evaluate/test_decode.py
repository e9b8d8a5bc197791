import hashlib
import io
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import InterpolationMode

from clipkit.evaluate import decode
from clipkit.evaluate.decode import decoded_batches
from clipkit.model.preprocess import EvalTransform, normalize
from tests.evaluate.listed import listed


def picture(seed: int, width: int, height: int, mode: str = "RGB") -> Image.Image:
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for number, (mode, ending) in enumerate(
        [("RGB", "jpg"), ("L", "jpg"), ("RGBA", "png"), ("P", "png"), ("RGB", "webp"), ("RGB", "avif")]
    ):
        path = tmp_path / f"{number}.{ending}"
        picture(number, 40 + 9 * number, 70 - 7 * number, mode).save(path)
        paths.append(path)
    return paths


def image_folders_pixels(path: Path) -> torch.Tensor:
    """Those of torchvision's ImageFolder, which makes a picture RGB first, with OpenAI's transform."""
    steps = [transforms.Resize(32, interpolation=InterpolationMode.BICUBIC), transforms.CenterCrop(32)]
    statistics = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    steps += [transforms.ToTensor(), transforms.Normalize(*statistics)]
    tensor: torch.Tensor = transforms.Compose(steps)(pil_loader(path))
    return tensor


def sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_torchvisions_pixels_in_order(pictures: list[Path], workers: int) -> None:
    batches = list(decoded_batches(listed(pictures), EvalTransform(32), batch_size=2, workers=workers))
    assert [batch.indices_B.tolist() for batch in batches] == [[0, 1], [2, 3], [4, 5]]
    images = torch.cat([batch.images_BCHW for batch in batches])
    assert images.dtype == torch.uint8
    digests = torch.cat([batch.sha256_B for batch in batches])
    assert [bytes(digest.tolist()) for digest in digests] == [sha256(path) for path in pictures]
    assert torch.equal(normalize(images), torch.stack([image_folders_pixels(path) for path in pictures]))


def test_what_cannot_be_read_comes_back_with_its_path_and_reason(pictures: list[Path]) -> None:
    whole = pictures[1].read_bytes()
    pictures[1].write_bytes(whole[: len(whole) // 2])
    pictures[2].write_bytes(b"<html>")
    pictures[3].unlink()
    batches = list(decoded_batches(listed(pictures), EvalTransform(32), batch_size=3, workers=0))
    unreadable = [row for batch in batches for row in batch.unreadable]
    assert [row.index for row in unreadable] == [1, 2, 3]
    assert [row.place for row in unreadable] == [str(path) for path in pictures[1:4]]
    assert unreadable[2].reason == "No such file or directory"
    assert all(row.reason and "\n" not in row.reason for row in unreadable)
    assert [row.sha256.tobytes() for row in unreadable] == [*map(sha256, pictures[1:3]), bytes(32)]
    assert [index for batch in batches for index in batch.indices_B.tolist()] == [0, 4, 5]


def test_a_batch_of_nothing_readable(tmp_path: Path) -> None:
    (batch,) = decoded_batches(listed([tmp_path / "none.jpg"]), EvalTransform(32), batch_size=8)
    assert len(batch.unreadable) == 1
    assert len(batch.indices_B) == len(batch.images_BCHW) == 0


def test_a_hostile_size_is_unreadable_not_a_crash(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    (tmp_path / "bomb.png").write_bytes(buffer.getvalue())
    (batch,) = decoded_batches(listed([tmp_path / "bomb.png"]), EvalTransform(32), batch_size=8)
    assert "megapixels" in batch.unreadable[0].reason


def test_the_global_random_state_is_left_alone(pictures: list[Path]) -> None:
    before = torch.get_rng_state()
    list(decoded_batches(listed(pictures), EvalTransform(32), batch_size=2, workers=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_mistake_in_a_thread_is_raised_here(pictures: list[Path]) -> None:
    def wrong(image: bytes) -> np.ndarray:
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        list(decoded_batches(listed(pictures), wrong, batch_size=2, workers=2))


def test_threads_are_not_far_ahead(pictures: list[Path]) -> None:
    """Memory does not grow with the set: each thread has a batch in the making and one that waits."""
    decoded = []

    def slow_to_take(image: bytes) -> np.ndarray:
        decoded.append(image)
        return np.zeros((3, 1, 1), np.uint8)

    batches = decoded_batches(listed(pictures[:1] * 50), slow_to_take, batch_size=1, workers=2)
    for taken, _ in enumerate(batches, 1):
        time.sleep(0.01)
        assert len(decoded) <= taken + 2 * decode._AHEAD
    assert len(decoded) == 50


def test_warnings_of_odd_pictures_are_silenced_and_the_users_filters_stay(tmp_path: Path) -> None:
    picture(1, 40, 30).quantize(64).save(tmp_path / "odd.png", transparency=bytes(range(64)))
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        inside = list(warnings.filters)
        list(decoded_batches(listed([tmp_path / "odd.png"] * 200), EvalTransform(8), batch_size=3, workers=8))
        assert warnings.filters == inside
    assert not said
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="Palette images with Transparency"):
        Image.open(tmp_path / "odd.png").convert("RGB")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU looks the same either way")
def test_the_number_of_threads_is_that_of_the_cpus_allowed() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert decode._default_workers() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert decode._default_workers() > 1
