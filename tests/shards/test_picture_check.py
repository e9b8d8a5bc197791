"""Checking stored pictures: a picture is as ingest saw it, whatever its metadata says to others."""

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.images import Picture, process
from clipkit.ingest.rows import Failed
from clipkit.shards.picture_check import picture_fault, picture_size
from clipkit.shards.thumbnail import thumbnail
from tests.serving import encoded, photo

SIDEWAYS = (50, 100)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'


def exif(*entries: tuple[int, int], order: str = "<") -> bytes:
    """An Exif segment of orientations, each given as type and value."""
    tags = b"".join(
        struct.pack(order + "HHI", 0x0112, kind, 1) + struct.pack(order + {3: "HH", 4: "I"}[kind], *values)
        for kind, value in entries
        for values in [(value, 0) if kind == 3 else (value,)]
    )
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return b"Exif\0\0" + mark + struct.pack(order + "IH", 8, len(entries)) + tags + bytes(4)


def jpeg(*segments: bytes) -> bytes:
    data = encoded(photo(100, 50))
    inserted = b"".join(b"\xff\xe1" + struct.pack(">H", len(each) + 2) + each for each in segments)
    return data[:2] + inserted + data[2:]


def cases() -> Iterator[tuple[str, bytes, tuple[int, int]]]:
    upright = (100, 50)
    yield "SHORT", jpeg(exif((3, 6))), SIDEWAYS
    yield "LONG, big-endian", jpeg(exif((4, 6), order=">")), SIDEWAYS
    yield "beyond 8", jpeg(exif((3, 9))), upright
    yield "twice, first sideways", jpeg(exif((3, 6)), exif((3, 1))), SIDEWAYS
    yield "twice, first upright", jpeg(exif((3, 1)), exif((3, 6))), upright
    yield "XMP alone", jpeg(exif(), b"http://ns.adobe.com/xap/1.0/\0" + XMP), upright
    yield "XMP in WebP", encoded(photo(100, 50), "WEBP", xmp=XMP), upright
    png = encoded(photo(100, 50), "PNG", exif=exif((3, 6)))
    yield "PNG", png, SIDEWAYS
    begins = png.index(b"eXIf") - 4
    ends = begins + 12 + int.from_bytes(png[begins : begins + 4], "big")
    yield "PNG, behind the pixels", png[:begins] + png[ends:-12] + png[begins:ends] + png[-12:], SIDEWAYS
    # The four luma samples of 4:1:1 side by side are those of 4:4:1 one above the other.
    wide = simplejpeg.encode_jpeg(np.asarray(photo(128, 64)), colorsubsampling="411")
    yield (
        "a subsampling without a name",
        wide.replace(b"\x01\x41\0\x02\x11", b"\x01\x14\0\x02\x11"),
        (128, 64),
    )


@pytest.mark.parametrize(("data", "size"), [pytest.param(*case[1:], id=case[0]) for case in cases()])
def test_a_picture_kept_as_served_has_the_size_that_ingest_saw(data: bytes, size: tuple[int, int]) -> None:
    picture = process(data, IngestConfig(keep_original=True))
    assert isinstance(picture, Picture)
    assert (picture.width, picture.height) == size == picture_size(data)
    assert picture_fault(data, size[0], size[1], max_pixels=10_000) is None
    assert picture_fault(data, size[1], size[0], max_pixels=10_000) is not None


def test_a_thumbnail_of_sixteen_bit_grey_is_not_white() -> None:
    ramp = np.linspace(0, 65_535, 640, dtype=np.uint16)[None].repeat(400, axis=0)
    made = Image.open(io.BytesIO(thumbnail(encoded(Image.fromarray(ramp), "PNG"), 64)))
    assert np.abs(np.asarray(made.convert("L"), dtype=int) - ramp[::10, 5::10] / 257).max() < 4


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_bytes_between_the_last_scan_and_the_end_cost_no_picture(options: dict[str, Any]) -> None:
    whole = encoded(photo(100, 50), **options)
    padded = whole[:-2] + bytes(12) + whole[-2:]
    with pytest.raises(ValueError, match="extraneous bytes before marker 0xd9"):
        simplejpeg.decode_jpeg(padded)
    pictures = [process(data, IngestConfig()) for data in (whole, padded)]
    assert all(isinstance(picture, Picture) for picture in pictures)
    assert len({getattr(picture, "content", None) for picture in pictures}) == 1
    assert picture_fault(padded, 100, 50, max_pixels=10_000) is None
    assert picture_fault(padded, 100, 50, max_pixels=10_000, encoded_here=True) is not None
    assert picture_fault(whole, 100, 50, max_pixels=10_000, encoded_here=True) is None
    short = whole[: len(whole) * 3 // 4] + whole[-2:]
    assert isinstance(process(short, IngestConfig()), Failed)
    assert picture_fault(short, 100, 50, max_pixels=10_000) is not None


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_with_a_hole_is_a_broken_picture(mode: str) -> None:
    """Pillow decodes it without a word, grey from there on."""
    whole = encoded(photo(100, 50).convert(mode))
    hole = len(whole) * 3 // 4
    damaged = whole[:hole] + bytes(64) + whole[hole + 64 :]
    assert isinstance(process(whole, IngestConfig()), Picture)
    assert picture_fault(whole, 100, 50, max_pixels=10_000) is None
    made = process(damaged, IngestConfig())
    assert isinstance(made, Failed) and made.reason == "broken_image"
    assert picture_fault(damaged, 100, 50, max_pixels=10_000) is not None


@pytest.mark.parametrize("parameters", [(0, 0, 0), (1, 63, 0), (0, 63, 16)])
def test_a_sequential_scan_with_odd_parameters_costs_no_picture(parameters: tuple[int, int, int]) -> None:
    whole = encoded(photo(100, 50))
    end = whole.index(b"\xff\xda") + 14
    odd = whole[: end - 3] + bytes(parameters) + whole[end:]
    with pytest.raises(ValueError, match="Invalid SOS parameters"):
        simplejpeg.decode_jpeg(odd)
    made, expected = process(odd, IngestConfig()), process(whole, IngestConfig())
    assert isinstance(made, Picture) and isinstance(expected, Picture)
    assert made.content == expected.content
    assert picture_fault(odd, 100, 50, max_pixels=10_000) is None
    short = odd[: len(odd) * 3 // 4]
    assert isinstance(process(short, IngestConfig()), Failed)
    assert picture_fault(short, 100, 50, max_pixels=10_000) is not None
