import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipkit.errors import DatasetError
from clipkit.model.preprocess import EvalTransform, TrainTransform
from tests.model.conftest import encoded, picture


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    packed = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("size", [(6001, 6000), (36_000_001, 1), (2**31 - 1, 2**31 - 1), (9_500, 9_500)])
def test_a_picture_over_36_megapixels_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    for transform in (EvalTransform(32), lambda data: TrainTransform(32)(data, 0)):
        with pytest.raises(DatasetError, match="36 megapixels"):
            transform(png_that_claims(*size))


def test_a_jpeg_over_36_megapixels_is_refused_before_it_is_decoded() -> None:
    data = bytearray(encoded(picture(64, 64), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    for transform in (EvalTransform(32), lambda data: TrainTransform(32)(data, 0)):
        with pytest.raises(DatasetError, match="36 megapixels"):
            transform(bytes(data))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded(mode: str) -> None:
    whole = encoded(picture(64, 64, mode), "JPEG", progressive=True)
    scan = whole.rindex(b"\xff\xda")
    bomb = whole[:scan] + 1000 * whole[scan:-2] + whole[-2:]
    for transform in (EvalTransform(32), lambda data: TrainTransform(32)(data, 0)):
        assert transform(whole).shape == (3, 32, 32)
        with pytest.raises(DatasetError, match=r"a JPEG has more than 50 scans: leave it out"):
            transform(bomb)


def test_bytes_like_scans_count_in_jpegs_only() -> None:
    noise = Image.frombytes("RGB", (64, 64), b"\xff\xda\x00" * 64 * 64)
    for transform in (EvalTransform(32), lambda data: TrainTransform(32)(data, 0)):
        assert transform(encoded(noise, "BMP")).shape == (3, 32, 32)


def test_a_thread_of_a_picture_cannot_grow_beyond_memory() -> None:
    data = encoded(Image.new("L", (1, 200_000)))
    with pytest.raises(DatasetError, match="would be resized"):
        EvalTransform(224)(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>not found</html>",
        b"\xff\xd8\xff\xe0 jpeg no more",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
    ids=["empty", "html", "jpeg start", "postscript"],
)
def test_what_is_no_picture_gives_one_clear_line(data: bytes) -> None:
    for transform in (EvalTransform(32), lambda data: TrainTransform(32)(data, 0)):
        with pytest.raises(DatasetError, match="not a picture") as caught:
            transform(data)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_with_a_hole_is_no_training_picture(mode: str) -> None:
    """Such as a disk leaves that lost a block: Pillow decodes it without a word, grey from there on."""
    whole = encoded(picture(200, 150, mode), "JPEG")
    middle = len(whole) // 2
    for damaged in (whole[:middle] + bytes(512) + whole[middle + 512 :], whole[:middle] + b"\xff\xd9"):
        expected = EvalTransform(32)(encoded(Image.open(io.BytesIO(damaged)).convert("RGB")))
        assert np.array_equal(EvalTransform(32)(damaged), expected), "as OpenAI's"
        with pytest.raises(DatasetError, match=r"\(Corrupt JPEG data: .*\): leave it out"):
            TrainTransform(32)(damaged, 0)


def test_bytes_that_concern_no_pixel_cost_no_training_picture() -> None:
    whole = encoded(picture(64, 64), "JPEG")
    revision = whole.index(b"JFIF\0") + 5
    for odd in (whole[:-2] + bytes(99) + whole[-2:], whole[:revision] + b"\2" + whole[revision + 1 :]):
        assert np.array_equal(TrainTransform(64)(odd, 0), TrainTransform(64)(whole, 0))


def test_a_fork_while_other_threads_open_pictures_does_not_hang() -> None:
    program = """if True:
        import os, signal, warnings
        from clipkit.model.pictures import _quiet
        before = list(warnings.filters)
        with _quiet():  # another thread, say
            with _quiet._changing:
                child = os.fork()
                if child == 0:
                    signal.alarm(20)
                    with _quiet():
                        pass
                    os._exit(warnings.filters != before)
        print(os.waitpid(child, 0)[1])
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]), st.data())
def test_damaged_pictures_give_pixels_or_a_dataset_error(kind: str, data: st.DataObject) -> None:
    whole = bytearray(encoded(picture(40, 30), kind))
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for transform in (EvalTransform(16), lambda image: TrainTransform(16)(image, 3)):
        try:
            assert transform(cut).shape == (3, 16, 16)
        except DatasetError as error:
            assert "\n" not in str(error)
