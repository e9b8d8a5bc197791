"""What stands in a picture beside its pixels: orientation (Exif 2.3), colour profile (ICC.1, annex B.4)."""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from clipkit.pictures import JPEG_START

_ORIENTATION = 0x0112
_INTEGERS = {3: "H", 4: "I"}  # SHORT, as the standard has it, and LONG, as some write it
_EXIF = b"Exif\0\0"
_ICC = b"ICC_PROFILE\0"
_PNG = b"\x89PNG\r\n\x1a\n"
_NOT_NEEDED = 0x20  # in the first letter of a chunk that decoders need not know
_OF_PIXELS = frozenset((b"tRNS", b"iCCP", b"eXIf"))  # of those
_MOST_OF_A_PROFILE = 1_000_000  # bytes; Pillow's limit is a little above
_TOLD = (*range(0xE1, 0xEE), 0xEF, 0xFE)  # what applications add, but for JFIF's and Adobe's; comments
_LEAST = {0xE0: 18, 0xEE: 16}  # bytes of JFIF's and Adobe's segments; libjpeg reads no shorter ones
_MANY = 10_000  # pieces, of which each is kept in mind
_END = b"\xff\xd9"
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length
_SEQUENTIAL = (0xC0, 0xC1)  # frames of Huffman coding, one scan after the other


class JpegMetadata(NamedTuple):
    """`orientation` is 1–8 (1 upright), `icc` the profile or None.

    `one_scan` says that the first scan holds all of a sequential picture: libjpeg takes no other one then.
    """

    orientation: int
    icc: bytes | None
    one_scan: bool


def jpeg_metadata(data: bytes) -> JpegMetadata:
    """Read the segments before the first scan; never raises: what cannot be read counts as absent."""
    orientation, profile = None, dict[bytes, bytes]()
    components, one_scan = b"", False
    for marker, place, end in _segments(data):
        if marker == 0xDA:
            one_scan = data[place + 4 : place + 5] == components
        elif marker == 0xE1 and orientation is None and data.startswith(_EXIF, place + 4):
            orientation = exif_orientation(data[place + 10 : end])
        elif marker == 0xE2 and data.startswith(_ICC, place + 4):
            profile[data[place + 16 : place + 17]] = data[place + 18 : end]
        elif marker in _SEQUENTIAL:
            components += data[place + 9 : place + 10]
        elif not marker:  # which libjpeg may read otherwise
            components += b"?"
    icc = b"".join(profile[number] for number in sorted(profile)) or None
    return JpegMetadata(orientation or 1, icc, one_scan)


def orientation_of(picture: bytes, exif: bytes) -> int:
    """Return the orientation (1–8) of a picture, whose decoder has found an `exif` block, perhaps empty.

    A JPEG's and a PNG's is read here: decoders differ on which segment counts, and may see none behind the
    pixels, where older exiftools write that of a PNG.
    """
    if picture.startswith(JPEG_START):
        return jpeg_metadata(picture).orientation
    if picture.startswith(_PNG):
        view = memoryview(picture)
        chunks = (view[place:end] for name, place, end in _chunks(picture) if name == b"eXIf")
        exif = next((bytes(chunk[8:-4]) for chunk in chunks if not _is_damaged(chunk)), b"")
    return exif_orientation(exif)


def exif_orientation(tiff: bytes) -> int:
    """Return the orientation (1–8) of an Exif block, from its TIFF header on; 1 if there is none."""
    tiff = tiff.removeprefix(_EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    try:
        if order is None:
            return 1
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(min(entries, 1000)):
            place = directory + 2 + 12 * entry
            tag, kind = struct.unpack_from(order + "HH", tiff, place)
            if tag == _ORIENTATION:
                (value,) = struct.unpack_from(order + _INTEGERS.get(kind, "0s"), tiff, place + 8)
                return value if value in range(1, 9) else 1
    except struct.error:
        pass
    return 1


def without_metadata(data: bytes) -> bytes:
    """Return a PNG or JPEG without what says nothing of its pixels. Other bytes stay as they are.

    Pillow refuses whole pictures for texts of a megabyte, or a resolution that is cut off; browsers do not.
    Orientation and profile of a PNG stay; those of a JPEG are read by `jpeg_metadata`.
    """
    view = memoryview(data)
    if data.startswith(_PNG):
        dropped = ((place, end) for name, place, end in _chunks(data) if _is_dropped(name, view[place:end]))
    else:
        jpeg = data if data.startswith(JPEG_START) else b""
        dropped = (
            (place, end)
            for marker, place, end in _segments(jpeg)
            if marker in _TOLD or end - place < _LEAST.get(marker, 0)
        )
    kept, since = [], 0
    for place, end in dropped:
        if place > since:
            kept.append(view[since:place])
        since = end
        if len(kept) > _MANY:
            return data
    return b"".join((*kept, view[since:])) if kept else data


def with_sequential_scan(jpeg: bytes) -> bytes:
    """Return a JPEG with the parameters of its first scan as those of a sequential one are (T.81, B.2.3)."""
    for marker, _, end in _segments(jpeg):
        if marker == 0xDA:
            return jpeg[: end - 3] + b"\x00\x3f\x00" + jpeg[end:]
    return jpeg


def with_end(jpeg: bytes) -> bytes:
    """Return a JPEG of one scan with the marker of its end, should it lack that: its pixels may all be there.

    Others stay as they are: the last ones of several scans could be lacking too, and nothing would tell.
    """
    if jpeg.endswith(_END) or not jpeg_metadata(jpeg).one_scan:
        return jpeg
    return jpeg + _END


def has_damaged_chunk(png: bytes) -> bool:
    """Tell whether a checksum is wrong in a PNG, of a chunk that decoders must know.

    libpng refuses such a picture; Pillow does not look at the checksums of the pixels.
    """
    view = memoryview(png)
    return any(_is_damaged(view[place:end]) for name, place, end in _chunks(png) if not name[0] & _NOT_NEEDED)


def _segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment up to the first scan's, and where the segment begins and ends."""
    place = 2
    while place + 4 <= len(jpeg) and jpeg[place] == 0xFF:
        marker = jpeg[place + 1]
        if marker == 0xFF or marker in _STANDALONE:
            place += 1 if marker == 0xFF else 2
            continue
        end = place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
        if marker == 0xD9:
            return
        yield marker, place, end
        if marker == 0xDA:
            return
        place = end


def _chunks(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each whole chunk before the last, and where the chunk begins and ends."""
    place = len(_PNG)
    while place + 12 <= len(png):
        name = png[place + 4 : place + 8]
        end = place + 12 + int.from_bytes(png[place : place + 4], "big")
        if name == b"IEND" or end > len(png):
            return
        yield name, place, end
        place = end


def _is_damaged(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big")


def _is_dropped(name: bytes, chunk: memoryview) -> bool:
    if not name[0] & _NOT_NEEDED:
        return False
    if name not in _OF_PIXELS or _is_damaged(chunk):
        return True
    return name == b"iCCP" and not _is_profile(bytes(chunk[8:-4]))


def _is_profile(content: bytes) -> bool:
    rest = content.partition(b"\0")[2]
    try:
        profile = zlib.decompressobj().decompress(rest[1:], _MOST_OF_A_PROFILE + 1)
    except zlib.error:
        return False
    return rest[:1] == b"\0" and len(profile) <= _MOST_OF_A_PROFILE
