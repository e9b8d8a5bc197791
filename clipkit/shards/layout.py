"""What a shard's tar must be, byte for byte but for its pictures, by what its manifest says."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clipkit.shards.format import HEADER_BYTES, padding, sample_key, tar_end, tar_header


class Row(NamedTuple):
    """A sample as its manifest has it, as far as the tar follows from it."""

    ext: str
    image_bytes: int
    caption: bytes


class Placed(NamedTuple):
    """Where a sample lies in a tar: the byte ranges of its two members' contents."""

    image_offset: int
    image_bytes: int
    caption_offset: int
    caption_bytes: int


def placed(rows: Sequence[Row]) -> Iterator[Placed]:
    """Yield where the samples lie in a tar of these rows."""
    place = 0
    for row in rows:
        image = place + HEADER_BYTES
        caption = image + row.image_bytes + padding(row.image_bytes) + HEADER_BYTES
        yield Placed(image, row.image_bytes, caption, len(row.caption))
        place = caption + len(row.caption) + padding(len(row.caption))


def fixed_bytes(shard: int, rows: Sequence[Row]) -> Iterator[tuple[int, bytes]]:
    """Yield the pieces of the tar that are not picture, with their places, in order.

    A piece is all that lies between two pictures: padding, the caption's member, the next picture's header.
    """
    place, piece = 0, b""
    for number, row in enumerate(rows):
        key = sample_key(shard, number)
        piece += tar_header(f"{key}.{row.ext}", row.image_bytes)
        yield place, piece
        place += len(piece) + row.image_bytes
        size = len(row.caption)
        header = tar_header(f"{key}.txt", size)
        piece = bytes(padding(row.image_bytes)) + header + row.caption + bytes(padding(size))
    yield place, piece + tar_end(place + len(piece))
