import itertools
import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.images import Picture, process
from clipkit.ingest.pieces import MAX_PIECES, has_too_many_pieces
from clipkit.ingest.rows import Failed
from tests.serving import encoded, photo

CHUNK = bytes(4) + b"abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
GIF = encoded(photo(64, 64).quantize(16), "GIF")
TABLE = 13 + 3 * (2 << (GIF[10] & 7))
FLOODED: dict[str, Callable[[int], bytes]] = {
    "PNG, chunks": lambda count: between(encoded(photo(64, 64), "PNG"), 33, CHUNK * count),
    "GIF, comments": lambda count: between(GIF, TABLE, b"\x21\xfe\x01a\0" * (count // 2)),
    "GIF, blocks of a comment": lambda count: between(GIF, TABLE, b"\x21\xfe" + b"\x01a" * count + b"\0"),
    "JPEG, segments": lambda count: between(
        encoded(photo(64, 64).convert("CMYK")), 2, b"\xff\xe5\0\x02" * count
    ),
}


def between(data: bytes, place: int, more: bytes) -> bytes:
    return data[:place] + more + data[place:]


@pytest.mark.parametrize("flooded", FLOODED.values(), ids=FLOODED.keys())
def test_pictures_in_very_many_pieces_are_refused_before_pillow_keeps_them(
    flooded: Callable[[int], bytes],
) -> None:
    assert isinstance(process(flooded(MAX_PIECES - 100), IngestConfig()), Picture)
    refused = process(flooded(MAX_PIECES + 100), IngestConfig())
    assert isinstance(refused, Failed)
    assert (refused.reason, refused.detail) == ("broken_image", "more than 65,536 pieces")


STARTS = (b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", GIF[:TABLE])


@given(st.sampled_from(["png", "gif", "jpeg", "webp"]), st.sampled_from(STARTS), st.binary())
def test_any_bytes_are_counted(kind: str, start: bytes, data: bytes) -> None:
    for content in itertools.chain([start + data], [(start + data)[:11]]):
        assert not has_too_many_pieces(content, kind)
