"""Decoding JPEGs strictly, but for what libjpeg only warns of although all the pixels are there."""

import re
from typing import Any

import numpy as np
import simplejpeg

from clipkit.metadata import with_sequential_scan
from clipkit.pictures import Pixels

# Each is libjpeg's first complaint of a picture: nothing was wrong before.
_BEFORE_THE_END = re.compile("Corrupt JPEG data: [0-9]+ extraneous bytes before marker 0xd9")
_OF_THE_SCAN = "Invalid SOS parameters for sequential JPEG"


def jpeg_header(jpeg: bytes) -> tuple[int, int, str, str]:
    """Return height, width, colour space and chroma subsampling as simplejpeg names them; raises ValueError
    as that does, and for rare subsamplings that it has no name for.
    """
    try:
        height, width, colour, sampling = simplejpeg.decode_jpeg_header(jpeg)
    except KeyError:  # 4:4:1, which a turned 4:1:1 has
        raise ValueError("a chroma subsampling without a name") from None
    return height, width, colour, sampling


def decode_jpeg(jpeg: bytes, colour: str, **how: Any) -> Pixels:
    """Return the pixels of simplejpeg's `decode_jpeg`; raises ValueError as that does, strictly.

    Bytes behind the last scan, which many encoders and servers leave there, do no harm, and neither do the
    numbers of a progressive scan in a sequential one, as some cameras write them.
    """
    try:
        return np.asarray(simplejpeg.decode_jpeg(jpeg, colour, **how), np.uint8)
    except ValueError as error:
        if str(error) == _OF_THE_SCAN:
            mended = with_sequential_scan(jpeg)
            if mended != jpeg:
                return decode_jpeg(mended, colour, **how)
        if not _BEFORE_THE_END.fullmatch(str(error)):
            raise
    return np.asarray(simplejpeg.decode_jpeg(jpeg, colour, strict=False, **how), np.uint8)


def check_whole(jpeg: bytes, *, encoded_here: bool = False) -> None:
    """Read all of the coded data, of an eighth of the pixels; raises ValueError as `decode_jpeg` does, of a
    picture that was `encoded_here` for any complaint of libjpeg's: each tells of damage then.

    Pillow, which decodes what simplejpeg makes no RGB of, says nothing of pixels that are lost.
    """
    colours = jpeg_header(jpeg)[2]
    colour = "CMYK" if colours in ("CMYK", "YCCK") else "GRAY"
    decode = simplejpeg.decode_jpeg if encoded_here else decode_jpeg
    decode(jpeg, colour, min_height=1, min_width=1, fastdct=True)
