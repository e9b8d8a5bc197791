"""Metadata that is large, odd or damaged costs no picture: not in ingest, verify, reports or training."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.images import Picture, process
from clipkit.metadata import without_metadata
from clipkit.model.pictures import rgb_pixels
from clipkit.shards.picture_check import picture_fault
from clipkit.shards.thumbnail import thumbnail
from tests.serving import encoded, photo

PICTURE = photo(60, 40)
PNG, JPEG = encoded(PICTURE, "PNG"), encoded(PICTURE)
CMYK = encoded(PICTURE.convert("CMYK"))
MEGABYTES = zlib.compress(bytes(2_000_000))


def png(name: bytes, body: bytes, checksum: int | None = None) -> bytes:
    crc = zlib.crc32(name + body) if checksum is None else checksum
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)
    return PNG[:33] + chunk + PNG[33:]


def jpeg(marker: int, body: bytes, data: bytes = JPEG) -> bytes:
    return data[:2] + b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body + data[2:]


def cases() -> Iterator[tuple[str, bytes, bytes]]:
    for name, body in (
        (b"zTXt", b"Comment\0\0" + MEGABYTES),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + MEGABYTES),
        (b"iCCP", b"icc\0\0" + MEGABYTES),
        (b"iCCP", b"icc\0\1" + zlib.compress(b"of another method")),
        (b"iCCP", b""),
        (b"gAMA", b"\0"),
        (b"pHYs", b"\0"),
        (b"acTL", b"\0"),
    ):
        yield f"PNG {name.decode()} {len(body)}", png(name, body), PNG
    yield "PNG checksum", png(b"tEXt", b"a\0b", checksum=7), PNG
    for marker, body in (
        (0xED, b"Photoshop 3.0\x008BIM\4\4"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE0, b"JFIF\0"),
        (0xEE, b"Adobe"),
    ):
        yield f"JPEG {marker:x}", jpeg(marker, body), JPEG
        yield f"CMYK {marker:x}", jpeg(marker, body, CMYK), CMYK


@pytest.mark.parametrize(("data", "plain"), [pytest.param(*case[1:], id=case[0]) for case in cases()])
def test_metadata_costs_no_picture(data: bytes, plain: bytes) -> None:
    with_it, without = process(data, IngestConfig()), process(plain, IngestConfig())
    assert isinstance(with_it, Picture) and isinstance(without, Picture)
    assert with_it.content == without.content
    assert picture_fault(data, 60, 40, max_pixels=10_000) is None
    assert thumbnail(data, 30) == thumbnail(plain, 30)
    assert np.array_equal(rgb_pixels(data), rgb_pixels(plain))


@pytest.mark.parametrize("data", [PNG, JPEG, b"", b"\xff\xd8\xff", PNG[:20], encoded(PICTURE, "WEBP")])
def test_what_has_nothing_to_leave_out_stays(data: bytes) -> None:
    assert without_metadata(data) == data


def test_very_many_pieces_are_not_each_kept_in_mind() -> None:
    pairs = (b"\xff\xe0\x00\x10" + bytes(14) + b"\xff\xfe\x00\x02") * 20_000
    data = JPEG[:2] + pairs + JPEG[2:]
    assert without_metadata(data) is data


def test_a_cmyk_jpeg_is_turned_upright_by_its_exif() -> None:
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    picture = process(jpeg(0xE1, b"Exif\0\0" + tiff, CMYK), IngestConfig())
    assert isinstance(picture, Picture) and (picture.width, picture.height) == (40, 60)
