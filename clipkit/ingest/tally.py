"""What an ingest has done so far, and how that reads while it runs."""

from collections import Counter
from typing import Any

from clipkit.ingest.rows import ChunkOutcome, Limit
from clipkit.ingest.worker import Underway

_CAUSES_SHOWN = 3


class Tally:
    """The counts of one run, rows of unfinished chunks included.

    A chunk that is begun anew, its worker having died, counts anew.
    """

    def __init__(self) -> None:
        self._finished = ChunkOutcome(-1, 0, {}, 0)
        self._underway: dict[int, ChunkOutcome] = {}
        self._limited_by: dict[Limit, str] = {}  # a host
        self._remarked: set[Limit] = set()
        self._count()

    def finish(self, outcome: ChunkOutcome) -> None:
        """Count a finished chunk."""
        self._underway.pop(outcome.number, None)
        self._finished = _sum(self._finished, outcome)
        self._count()

    def note(self, underway: Underway) -> None:
        """Count unfinished chunks, in place of what was noted of them before."""
        self._underway.update((outcome.number, outcome) for outcome in underway.chunks)
        if underway.limited_by:
            host, limit = underway.limited_by
            self._limited_by.setdefault(limit, host)
        self._count()

    def remark(self, per_host: int) -> str | None:
        """Return a line that is worth saying, each once."""
        for limit in self._limited_by.keys() - self._remarked:
            self._remarked.add(limit)
            host = self._limited_by[limit]
            if limit == "network":
                return (
                    f"ingest: nothing answers any more, nor can {host} be connected to, which did: URLs wait "
                    "for the network to come back"
                )
            if limit == "pause":
                return f"ingest: {host} asks for pauses: its URLs wait, and it gets fewer connections"
            return (
                f"ingest: URLs of {host} wait, as it gets no more than {per_host} connections, while others "
                "are free; if it is able and willing to answer more at a time, give a larger --per-host"
            )
        return None

    def figures(self, records: int, earlier: int, seconds: float) -> dict[str, Any]:
        """Return rates, causes and the seconds to go; `earlier` of the `records` were done by former runs."""
        seconds = max(seconds, 1e-3)
        left = records - earlier - self.rows
        return {
            "urls_per_second": round(self.rows / seconds, 1),
            "mb_per_second": round(self.bytes / seconds / 1e6, 2),
            "ok": round(self.samples / max(1, self.rows), 4),
            "causes": dict(self.failures.most_common(_CAUSES_SHOWN)),
            "eta_seconds": round(left * seconds / self.rows) if self.rows else None,
        }

    def words(self, seconds: float) -> str:
        """Return the same for a person to read, on one line."""
        causes = ", ".join(
            f"{reason} {count:,}" for reason, count in self.failures.most_common(_CAUSES_SHOWN)
        )
        seconds = max(seconds, 1e-3)
        rate = f"{self.rows / seconds:,.0f} URLs/s, {self.bytes / seconds / 1e6:,.1f} MB/s"
        return f"{rate}, ok {self.samples / max(1, self.rows):.0%}" + (f"; {causes}" if causes else "")

    def _count(self) -> None:
        total = _sum(self._finished, *self._underway.values())
        self.samples, self.bytes = total.successes, total.bytes
        self.failures = Counter(total.failures)
        self.rows = self.samples + self.failures.total()


def _sum(*outcomes: ChunkOutcome) -> ChunkOutcome:
    failures = Counter[str]()
    for outcome in outcomes:
        failures.update(outcome.failures)
    successes = sum(outcome.successes for outcome in outcomes)
    return ChunkOutcome(-1, successes, dict(failures), sum(outcome.bytes for outcome in outcomes))
