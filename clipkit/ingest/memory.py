"""Whether a picture cannot be decoded for its bytes, or for a lack of memory on this machine."""

import mmap
import warnings

from clipkit.errors import EngineError
from clipkit.ingest.decoding import opened, sniff

_BYTES_A_PIXEL, _MOST_BYTES = 20, 256_000_000  # that decoders take


def check_memory(data: bytes) -> None:
    """Raise EngineError if this process may not have the memory that decoding the picture takes.

    Decoders tell of that in words of their own, or not at all.
    """
    kind = sniff(data)
    if kind is None:
        return
    try:
        with warnings.catch_warnings(action="ignore"), opened(data, kind) as image:
            width, height = image.size
    except Exception:  # bytes that nobody could decode
        return
    count = min(_BYTES_A_PIXEL * width * height, _MOST_BYTES)
    try:
        mmap.mmap(-1, max(count, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        raise EngineError(
            f"expected {count // 10**6:,} MB of memory for a picture of {width} x {height}, found that a "
            "worker cannot have that: raise its limit (ulimit -v) or give fewer --workers, and run the same "
            "command again"
        ) from None
