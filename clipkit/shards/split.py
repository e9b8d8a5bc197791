"""Which side of a split a picture falls on: a function of its bytes as served and of nothing else.

So it is the same for ever, in every dataset derived from any other, and copies of a picture are on one side.
"""

import numpy as np

from clipkit.shards.original import Words
from clipkit.splitmix import mix


def in_validation(sha256: Words, share: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell for each SHA-256, as four big-endian 64-bit words (n, 4), whether it is in the validation part.

    With h = 0 and h ← mix(h xor word) for each of the four words, in order: those with h < `share` · 2⁶⁴. A
    larger share holds all of a smaller one. Raises ValueError for a share that is not within 0…1.
    """
    if not 0 < share < 1:
        raise ValueError(f"expected a share between 0 and 1, found {share}")
    hashes = np.zeros(len(sha256), dtype=np.uint64)
    for word in sha256.T:
        hashes = mix(hashes ^ word)
    return hashes < np.uint64(int(share * 2**64))
