"""What stands in a picture beside its pixels: orientation (Exif 2.3), colour profile (ICC.1, annex B.4)."""

import struct
from typing import NamedTuple

_ORIENTATION = 0x0112
_INTEGERS = {3: "H", 4: "I"}  # SHORT, as the standard has it, and LONG, as some write it
_EXIF = b"Exif\0\0"
_ICC = b"ICC_PROFILE\0"
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
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF or marker in _STANDALONE:
            place += 1 if marker == 0xFF else 2
            continue
        if marker in (0xDA, 0xD9):
            one_scan = marker == 0xDA and data[place + 4 : place + 5] == components
            break
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xE1 and orientation is None and data.startswith(_EXIF, place + 4):
            orientation = exif_orientation(data[place + 10 : end])
        elif marker == 0xE2 and data.startswith(_ICC, place + 4):
            profile[data[place + 16 : place + 17]] = data[place + 18 : end]
        elif marker in _SEQUENTIAL:
            components += data[place + 9 : place + 10]
        elif not marker:  # which libjpeg may read otherwise
            components += b"?"
        place = max(end, place + 2)
    icc = b"".join(profile[number] for number in sorted(profile)) or None
    return JpegMetadata(orientation or 1, icc, one_scan)


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
