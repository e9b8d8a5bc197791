"""Samples that cannot be read: counted and named while the stream goes on, and its end when they are many."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from clipkit.errors import DatasetError

MAX_BAD = 0.001
FEWEST = 10
_LISTED = 20
REMEDY = "mend them (`clipkit shards verify` finds all of a dataset's)"

_log = logging.getLogger("clipkit.shards")


class BadSample(NamedTuple):
    """A sample whose picture or caption cannot be read: its shard, its key, and why, in one line."""

    shard: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}: sample {self.key}: {self.reason}"


@dataclass
class Bad:
    """How many samples of a stream could not be read, and the first of them in words, each once."""

    count: int = 0
    named: list[str] = field(default_factory=list)


class BadCount:
    """Counts in `bad` what cannot be read of what has been seen of a stream; `say` is told of each.

    Allowed are the fraction `most` of the samples seen, and 10 in any case, since of few samples one is many;
    none at all if `most` is 0.
    """

    def __init__(
        self, most: float = MAX_BAD, say: Callable[[str], object] | None = None, bad: Bad | None = None
    ):
        self._most = most
        self._say = say or _log.warning
        self._bad = bad or Bad()

    def add(self, found: Sequence[BadSample | str], seen: int) -> None:
        """Count what is bad in the next batch, of `seen` samples up to its end.

        One that comes again is counted again. Raises DatasetError with the list if there are too many by now.
        """
        bad = self._bad
        bad.count += len(found)
        for each in map(str, found):
            if each not in bad.named and len(bad.named) < _LISTED:
                bad.named.append(each)
            self._say(f"{each}; another sample took its place")
        if found and bad.count > (self._most and max(FEWEST, self._most * seen)):
            more = "; …" if len(bad.named) == _LISTED else ""
            raise DatasetError(
                f"{bad.count} of the {seen:,} samples read so far cannot be read, more than the "
                f"{self._most:.2%} allowed; {REMEDY}: {'; '.join(bad.named)}{more}"
            )
