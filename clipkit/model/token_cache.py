"""Memory of what was tokenized before, bounded in bytes and shared by threads."""

import sys
from collections.abc import Callable
from threading import Lock

Tokens = tuple[int, ...]
_SLOT = 104  # of a dictionary, at the emptiest that it gets: entries and index, old and new while it grows


class TokenCache:
    """Tokens by the text that they stand for: `cache.recent[text]` computes what it does not know.

    Two generations: when the recent one has filled half of `capacity` (bytes, entries and tables included),
    it becomes the old one, from which what is asked for again is taken over, and the old one is dropped.
    Texts of more than `longest` characters are computed each time.
    """

    def __init__(self, compute: Callable[[str], Tokens], capacity: int, longest: int):
        self.recent = _Generation(self)
        self._old: dict[str, Tokens] = {}
        self._compute = compute
        self._capacity = capacity
        self._longest = longest
        self._bytes = 0
        self._lock = Lock()

    def find(self, text: str) -> Tokens:
        """Tokens of a text that the recent generation does not hold."""
        if len(text) > self._longest:
            return self._compute(text)
        tokens = self._old.get(text)
        if tokens is None:
            tokens = self._compute(text)
        size = sys.getsizeof(text) + sys.getsizeof(tokens) + _SLOT
        with self._lock:
            if text not in self.recent:
                self.recent[text] = tokens
                self._bytes += size
            if self._bytes > self._capacity // 2:
                self._old, self.recent, self._bytes = self.recent, _Generation(self), 0
        return tokens

    def after_fork(self) -> None:
        """Make a new lock: a fork copies the old one held, if another thread holds it then."""
        self._lock = Lock()


class _Generation(dict[str, Tokens]):
    # `generation[text]` of a known text stays within the interpreter's own code: no call, no lock.
    __slots__ = ("_cache",)

    def __init__(self, cache: TokenCache):
        super().__init__()
        self._cache = cache

    def __missing__(self, text: str) -> Tokens:
        return self._cache.find(text)
