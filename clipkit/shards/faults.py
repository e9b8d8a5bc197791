"""Faults: what is wrong with a dataset, where, and how often; a bounded list and exact counts."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from clipkit.errors import escaped

LISTED = 1000  # faults kept in words; all are counted
LISTED_OF_FILE = 20

CAUSES = (
    "dataset", "index", "missing", "unreadable", "unlisted", "changed", "bytes", "sha256", "header",
    "caption", "padding", "end", "picture", "manifest", "key", "failures", "record", "sizes", "totals",
    "unfinished", "crashed",
)  # fmt: skip
"""What a fault can be, a closed set: which check found it."""


class Fault(NamedTuple):
    """One fault: its cause, of CAUSES, its file, and where there are such the tar's member and the byte.

    `words` say what was expected and what was found.
    """

    cause: str
    file: str
    words: str
    member: str | None = None
    byte: int | None = None

    def line(self) -> str:
        """Return the fault as one line to read."""
        place = self.file + (f", {self.member}" if self.member else "")
        if self.byte is not None:
            place += f", byte {self.byte:,}"
        return escaped(f"{place}: {self.words}")

    def as_json(self) -> dict[str, Any]:
        """Return the fault as plain JSON values."""
        return self._asdict()


class Faults:
    """Collects faults: the first `listed` of them in words, all of them in counts by cause."""

    def __init__(self, listed: int = LISTED):
        self._most = listed
        self.listed: list[Fault] = []
        self.counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return self.counts.total()

    def add(
        self, cause: str, file: str, words: str, *, member: str | None = None, byte: int | None = None
    ) -> None:
        """Add one fault."""
        assert cause in CAUSES, cause
        self.counts[cause] += 1
        if len(self.listed) < self._most:
            self.listed.append(Fault(cause, file, words, member, byte))

    def take(self, others: "Faults") -> None:
        """Add the faults of another collection."""
        self.counts.update(others.counts)
        self.listed += others.listed[: self._most - len(self.listed)]

    def of(self, causes: Iterable[str]) -> int:
        """Return how many faults have one of these causes."""
        return sum(self.counts[cause] for cause in causes)
