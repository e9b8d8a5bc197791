"""The rows that a fetch is given: some may not be there yet."""

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from clipkit.ingest.rows import UrlRow

_LONGEST_WAIT = 0.25
_SHORT_WAIT = 0.02

Key = TypeVar("Key")


class Incoming(Generic[Key]):
    """Rows with their keys; a None among them says that the next one is not there yet."""

    def __init__(self, rows: Iterable[tuple[Key, UrlRow] | None]):
        self._rows: Iterator[tuple[Key, UrlRow] | None] = iter(rows)
        self._starved = False
        self.exhausted = False

    def next(self) -> tuple[Key, UrlRow] | None:
        """Return the next row with its key, None if there is none yet or no more."""
        self._starved = False
        try:
            following = next(self._rows)
        except StopIteration:
            self.exhausted = True
            return None
        self._starved = following is None
        return following

    def patience(self, *, soon: bool = False) -> float:
        """Return for how many seconds to wait for what is underway; `soon`: there is more to look at."""
        return _SHORT_WAIT if soon or self._starved else _LONGEST_WAIT
