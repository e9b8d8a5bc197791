"""What an ingest left behind, for a script and for a person."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipkit.ingest.tally import Tally
from clipkit.shards.failure_files import count_reasons, count_retryable
from clipkit.shards.index import read_index
from clipkit.shards.report import REPORT_FILE
from clipkit.tables import size, table


class IngestResult(NamedTuple):
    """What an ingest left behind: `records` = `samples` + the sum of `failures` (reason → count).

    `retryable` of the failures may pass. `fetched`, `bytes` and `seconds` are of this run alone;
    `was_complete` says that there was nothing to do.
    """

    out: Path
    records: int
    samples: int
    failures: dict[str, int]
    retryable: int
    shards: int
    report: Path
    fetched: int
    bytes: int
    seconds: float
    was_complete: bool

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {**self._asdict(), "out": str(self.out), "report": str(self.report)}

    def lines(self) -> str:
        """Return the result for a person to read."""
        percent = 100 * self.samples / max(1, self.records)
        counts = [
            ("records", f"{self.records:,}"),
            ("samples", f"{self.samples:,} ({percent:.1f}%) in {self.shards:,} shards"),
            ("failures", f"{self.records - self.samples:,}"),
            *((f"  {reason}", f"{count:,}") for reason, count in self.failures.items()),
            ("report", str(self.report)),
        ]
        if self.retryable:
            counts.insert(-1, ("may pass", f"{self.retryable:,}: --retry-failed tries them again"))
        if self.was_complete:
            return f"{self.out}: complete already, nothing to do\n{table(counts)}"
        rate = self.fetched / max(self.seconds, 1e-3)
        done = f"{self.fetched:,} URLs, {size(self.bytes)} in {self.seconds:.1f} s ({rate:,.0f} URLs/s)"
        return f"{self.out}: {done}\n{table(counts)}"


def result_of(directory: Path, tallies: Sequence[Tally], seconds: float) -> IngestResult:
    """Count what the dataset in `directory` holds after a run of `seconds`, with one of `tallies` a pass."""
    reasons = count_reasons(directory)
    shards = read_index(directory).shards
    samples = sum(shard.samples for shard in shards)
    return IngestResult(
        out=directory,
        records=samples + reasons.total(),
        samples=samples,
        failures=dict(reasons.most_common()),
        retryable=count_retryable(directory),
        shards=len(shards),
        report=directory / REPORT_FILE,
        fetched=sum(tally.rows for tally in tallies),
        bytes=sum(tally.bytes for tally in tallies),
        seconds=seconds,
        was_complete=not tallies,
    )
