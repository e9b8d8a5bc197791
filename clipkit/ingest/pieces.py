"""Into how many pieces a picture's file is cut: Pillow keeps something of each, fifty times the file."""

import itertools
from collections.abc import Callable, Iterator

MAX_PIECES = 65_536  # 20 MB in pieces of 300 bytes


def has_too_many_pieces(data: bytes, kind: str) -> bool:
    """Tell whether a picture of the sniffed `kind` is cut into more than MAX_PIECES; never raises."""
    walk = _WALKS.get(kind)
    return walk is not None and next(itertools.islice(walk(data), MAX_PIECES, None), None) is not None


def _chunks(data: bytes) -> Iterator[int]:
    """Yield where PNG's chunks begin."""
    place = 8
    while place + 8 <= len(data):
        yield place
        place += 12 + int.from_bytes(data[place : place + 4], "big")


def _segments(data: bytes) -> Iterator[int]:
    """Yield where JPEG's markers before the first scan begin."""
    place = 2
    while place + 4 <= len(data) and data[place + 1] not in (0xDA, 0xD9):
        yield place
        has_length = data[place] == 0xFF and data[place + 1] not in (0x00, 0xFF)
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big") if has_length else 1


def _blocks(data: bytes) -> Iterator[int]:
    """Yield where the blocks of GIF's extensions before the first frame begin."""
    table = 3 << (1 + (data[10] & 7)) if data[10:11] >= b"\x80" else 0
    place = 13 + table
    while place < len(data) and data[place] != 0x2C:
        yield place
        if data[place] != 0x21:
            place += 1
            continue
        place += 2
        while size := int.from_bytes(data[place : place + 1], "big"):
            yield place
            place += 1 + size
        place += 1


_WALKS: dict[str, Callable[[bytes], Iterator[int]]] = {"png": _chunks, "jpeg": _segments, "gif": _blocks}
