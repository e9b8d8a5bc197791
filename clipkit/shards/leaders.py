"""Which of many near-equal pictures stay: those that resemble none before them that stays.

So no two that stay are within the distance, and whatever goes is within it of one that stays. Groups linked
by chains would be larger: their ends need not resemble each other, nor what stays of them.
"""

from collections.abc import Iterable

import numpy as np

from clipkit.shards.hamming import Hashes, Pairs, Places, near_matches, near_pairs

MOST_PAIRS = 1 << 24  # held at a time: 16 bytes each
_ROUNDS = 30


def leaders(hashes: Hashes, distance: int) -> Places:
    """Return for each hash the place of the one it goes in favour of, its own if it stays.

    `hashes` are distinct and ordered, the preferred first; each goes for the first one that stays and differs
    in at most `distance` bits. Memory does not grow with the number of pairs: where they are too many, the
    hashes are taken some at a time.
    """
    leader = np.arange(len(hashes))
    kept = np.zeros(0, dtype=np.int64)
    first, size = 0, len(hashes)
    while first < len(hashes):
        last = min(first + size, len(hashes))
        pairs = _gathered(hashes, kept, first, last, distance)
        if pairs is None:
            size = max(1, (last - first) // 2)
            continue
        _decide(leader, *pairs)
        stays = np.flatnonzero(leader[first:last] == np.arange(first, last)) + first
        kept = np.concatenate([kept, stays]) if last < len(hashes) else kept
        first, size = last, 2 * size
    return leader


def _gathered(hashes: Hashes, kept: Places, first: int, last: int, distance: int) -> Pairs | None:
    """Return the pairs (one that stays, its follower) and those among the rest; None if too many.

    Followers and rest are hashes `first` to `last` - 1.
    """
    some, is_single = hashes[first:last], last - first == 1
    followed = _held(near_matches(hashes[kept], some, distance), is_single)
    if followed is None:
        return None
    free = np.ones(len(some), dtype=np.bool_)
    free[followed[1]] = False
    if free.all():  # at first, of all hashes: they are not copied
        among = _held(near_pairs(some, distance), is_single)
        rest = None
    else:
        rest = np.flatnonzero(free)
        among = _held(near_pairs(some[rest], distance), is_single)
    if among is None:
        return None
    one, other = among if rest is None else (rest[among[0]], rest[among[1]])
    return np.concatenate([kept[followed[0]], one + first]), np.concatenate([followed[1], other]) + first


def _held(found: Iterable[Pairs], unlimited: bool) -> Pairs | None:
    arrays: list[Pairs] = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))]
    count = 0
    for pairs in found:
        arrays.append(pairs)
        count += len(pairs[0])
        if count > MOST_PAIRS and not unlimited:
            return None
    return np.concatenate([one for one, _ in arrays]), np.concatenate([other for _, other in arrays])


def _decide(leader: Places, one: Places, other: Places) -> None:
    """Set the leaders of what goes, given all pairs (a preferred place, another) of what is undecided."""
    gone = np.zeros(len(leader), dtype=np.bool_)
    a, b = one, other
    for _ in range(_ROUNDS):
        if not len(a):
            break
        has_better = np.zeros(len(leader), dtype=np.bool_)
        has_better[b] = True
        gone[b[~has_better[a]]] = True
        left = ~gone[a] & ~gone[b]
        a, b = a[left], b[left]
    order = np.lexsort((b, a))  # what is left is in long chains
    for better, worse in zip(a[order].tolist(), b[order].tolist(), strict=True):
        if not gone[better]:
            gone[worse] = True
    counts = ~gone[one]
    np.minimum.at(leader, other[counts], one[counts])
