"""Samples that cannot be read: counted and named while the stream goes on, and its end when they are many."""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from clipkit.errors import DatasetError

MAX_BAD = 0.001
FEWEST = 10
_LISTED = 20

_log = logging.getLogger("clipkit.shards")


class BadSample(NamedTuple):
    """A sample whose picture or caption cannot be read: its shard, its key, and why, in one line."""

    shard: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}: sample {self.key}: {self.reason}"


class BadCount:
    """Counts what cannot be read of what this process has seen of a stream; `say` is told of each.

    Allowed are the fraction `most` of the samples seen, and 10 in any case, since of few samples one is many;
    none at all if `most` is 0.
    """

    def __init__(self, most: float, say: Callable[[str], None] | None = None):
        self._most = most
        self._say = say or _log.warning
        self._seen = 0
        self._count = 0
        self._named: dict[BadSample, None] = {}  # in order; one that comes again is counted again

    def add(self, seen: int, bad: Sequence[BadSample]) -> None:
        """Count a batch. Raises DatasetError with the list if there are too many by now."""
        self._seen += seen
        self._count += len(bad)
        for each in bad:
            self._named[each] = None
            self._say(f"{each}; another sample took its place")
        if self._count > (self._most and max(FEWEST, self._most * self._seen)):
            raise DatasetError(self._complaint())

    def _complaint(self) -> str:
        names = [str(each) for each in self._named]
        more = f"; and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        return (
            f"{self._count} of the {self._seen:,} samples read so far cannot be read, more than the "
            f"{self._most:.2%} allowed; run `clipkit shards verify`: {'; '.join(names[:_LISTED])}{more}"
        )
