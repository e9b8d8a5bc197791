"""Names and bytes of a shard: a plain ustar archive whose every byte follows from the samples in it.

A sample is two members, `KEY.jpg` (or another picture extension) and `KEY.txt`. Headers carry mode 0644,
uid and gid 0, no owner names and mtime 0; the archive is padded to 10,240 bytes (POSIX.1-1988 ustar).
"""

SHARD_SAMPLES = 1000
HEADER_BYTES = 512
BLOCK_BYTES = 512
RECORD_BYTES = 10_240
MAX_SHARDS = 1_000_000

_NAME_BYTES = 100
_SIZE = slice(124, 136)
_CHECKSUM = slice(148, 156)
_MAX_MEMBER_BYTES = 8**11 - 1


def _blank_header() -> bytes:
    header = bytearray(HEADER_BYTES)
    header[100:108] = b"0000644\0"  # mode
    header[108:116] = header[116:124] = b"0000000\0"  # uid, gid
    header[136:148] = b"00000000000\0"  # mtime
    header[_CHECKSUM] = b" " * 8
    header[156:157] = b"0"  # a regular file
    header[257:265] = b"ustar\x0000"
    return bytes(header)


_BLANK_HEADER = _blank_header()
_BLANK_SUM = sum(_BLANK_HEADER)


def shard_name(number: int) -> str:
    """Return a shard's six-digit name, without extension. Raises ValueError beyond 10⁶ shards."""
    if not 0 <= number < MAX_SHARDS:
        raise ValueError(f"shard number {number} is outside 0…{MAX_SHARDS - 1}")
    return f"{number:06d}"


def sample_key(shard: int, row: int) -> str:
    """Return the nine-digit key of row `row` (0-based) of shard `shard`."""
    return f"{shard * SHARD_SAMPLES + row:09d}"


def tar_header(name: str, size: int) -> bytes:
    """Return the 512-byte ustar header of a regular file of `size` bytes.

    Raises ValueError if the name (ASCII, ≤ 100 characters) or the size (< 8 GiB) does not fit.
    """
    encoded = name.encode("ascii")
    if len(encoded) > _NAME_BYTES or not 0 <= size <= _MAX_MEMBER_BYTES:
        raise ValueError(f"no ustar header can hold name {name!r} with {size} bytes")
    digits = b"%011o\0" % size
    header = bytearray(_BLANK_HEADER)
    header[: len(encoded)] = encoded
    header[_SIZE] = digits
    header[_CHECKSUM] = b"%06o\0 " % (_BLANK_SUM + sum(encoded) + sum(digits))
    return bytes(header)


def padding(size: int) -> int:
    """Return how many zero bytes follow a member of `size` bytes."""
    return -size % BLOCK_BYTES


def tar_member(name: str, content: bytes) -> bytes:
    """Return a whole member: header, content, and zeros up to a multiple of 512 bytes."""
    return tar_header(name, len(content)) + content + bytes(padding(len(content)))


def tar_end(size: int) -> bytes:
    """Return the two zero blocks and the padding that end an archive of `size` bytes so far."""
    end = 2 * BLOCK_BYTES
    return bytes(end + -(size + end) % RECORD_BYTES)
