"""Limits on pictures from anywhere, checked on their bytes before anything is decoded; 16 bits made 8."""

import re

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

EIGHT_BITS = ((np.arange(65_536) * 255 + 32_767) // 65_535).astype(np.uint8)
"""Of each level of 16 bits."""

MAX_PIXELS = 36_000_000
# Cameras and tools write 1 to 20, and each costs a pass over the whole picture: with 50 of them 36 megapixels
# take 1.0 s of CPU time, with 200 they take 4.2 s.
MAX_SCANS = 50
_MAX_SEGMENTS = 5_000

JPEG_START = b"\xff\xd8\xff"
_START_OF_SCAN = b"\xff\xda"
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # none of those that stand within a scan


def check_scans(picture: bytes) -> None:
    """Raise ValueError for a JPEG of more than MAX_SCANS scans, which would take seconds to decode."""
    if picture.startswith(JPEG_START) and scan_count(picture) > MAX_SCANS:
        raise ValueError(f"more than {MAX_SCANS} scans")


def scan_count(jpeg: bytes) -> int:
    """Return the number of scans in a JPEG of any coding (ITU T.81, annex B).

    Above MAX_SCANS, some such number. What looks like a scan in other segments, or after the picture's end,
    does not make it that many.
    """
    possible = sum(_occurrences(jpeg, offset) for offset in (0, 1))
    if possible <= MAX_SCANS:
        return possible
    scans, place = 0, 2
    for _ in range(_MAX_SEGMENTS):
        marker = _NEXT_MARKER.search(jpeg, place)
        if marker is None or marker[0] == b"\xff\xd9" or scans > MAX_SCANS:
            return scans
        scans += marker[0] == _START_OF_SCAN
        place = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
    return MAX_SCANS + 1


def _occurrences(jpeg: bytes, offset: int) -> int:
    # Of the start of a scan, at every second byte; together a fifth of the time of bytes.count.
    pairs = np.frombuffer(jpeg, "<u2", (len(jpeg) - offset) // 2, offset)
    return int(np.count_nonzero(pairs == int.from_bytes(_START_OF_SCAN, "little")))
