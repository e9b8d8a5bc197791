"""One ingest from a source to a finished dataset, or on from where the last one stopped."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from clipkit.errors import DatasetError
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.engines import Crashed, Engine, local
from clipkit.ingest.report import REPORT_FILE, write_report
from clipkit.ingest.rows import ChunkOutcome
from clipkit.ingest.sources import Source, chunks
from clipkit.ingest.worker import make_crashed_part, make_part
from clipkit.progress import Progress
from clipkit.shards.dataset import Dataset, DatasetDescription, Totals, open_for_ingest
from clipkit.shards.index import read_index
from clipkit.shards.packing import Packer
from clipkit.shards.summary import failures_of
from clipkit.tables import size, table

WINDOW_PER_WORKER = 4
_CRASHES_IN_A_ROW = 3


class IngestResult(NamedTuple):
    """What an ingest left behind: `records` = `samples` + the sum of `failures` (reason → count).

    `fetched`, `bytes` and `seconds` are of this run alone; `was_complete` says that there was nothing to do.
    """

    out: Path
    records: int
    samples: int
    failures: dict[str, int]
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
        if self.was_complete:
            return f"{self.out}: complete already, nothing to do\n{table(counts)}"
        rate = self.fetched / max(self.seconds, 1e-3)
        done = f"{self.fetched:,} URLs, {size(self.bytes)} in {self.seconds:.1f} s ({rate:,.0f} URLs/s)"
        return f"{self.out}: {done}\n{table(counts)}"


@dataclass
class _Tally:
    """What this run has done so far."""

    successes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    @property
    def rows(self) -> int:
        return self.successes + self.failures.total()

    def add(self, outcome: ChunkOutcome) -> None:
        self.successes += outcome.successes
        self.failures.update(outcome.failures)
        self.bytes += outcome.bytes

    def note(self, seconds: float) -> str:
        causes = ", ".join(f"{reason} {count:,}" for reason, count in self.failures.most_common(3))
        seconds = max(seconds, 1e-3)
        rate = f"{self.rows / seconds:,.0f} URLs/s, {self.bytes / seconds / 1e6:,.1f} MB/s"
        return f"{rate}, ok {self.successes / max(1, self.rows):.0%}" + (f"; {causes}" if causes else "")


def ingest(
    source: Source,
    out: Path,
    config: IngestConfig,
    *,
    progress: Callable[[str, int | None, str], Progress] = Progress,
    engine: Engine = local,
) -> IngestResult:
    """Download `source` into the dataset at `out`; continue there if an earlier run was stopped.

    Raises DatasetError if `out` holds something else or workers died again and again, SourceError if the
    source cannot be read, OSError as the file system does. Stopped at any moment, the same call goes on
    where it was.
    """
    records = source.records if config.limit is None else min(source.records, config.limit)
    description = DatasetDescription(
        sources=source.files,
        image=config.image_settings,
        limit=config.limit,
        chunk_rows=config.chunk_rows,
        reading=dict(source.reading),
    )
    begun = time.monotonic()
    tally = _Tally()
    with open_for_ingest(out, description) as dataset:
        was_complete = dataset.complete
        if not was_complete:
            with progress("ingest", records, "URLs") as display:
                _fill(dataset, source, records, config, engine, display, tally)
        if crashed := tally.failures["worker_crashed"]:
            raise DatasetError(
                f"{out}: complete but for {crashed:,} URLs whose workers died twice, kept as worker_crashed "
                "failures; was there memory enough, or is there a picture that kills its reader?"
            )
        return _result(dataset, tally, time.monotonic() - begun, was_complete)


def _fill(
    dataset: Dataset,
    source: Source,
    records: int,
    config: IngestConfig,
    engine: Engine,
    display: Progress,
    tally: _Tally,
) -> None:
    directory = dataset.directory
    packer = Packer(directory)
    number_of_chunks = -(-records // config.chunk_rows)
    todo = [number for number in range(number_of_chunks) if not packer.is_done(number)]
    earlier = records - _rows_in(todo, records, config.chunk_rows)
    if earlier:
        display.say(f"ingest: going on in {directory} after {earlier:,} of {records:,} URLs")
    begun = time.monotonic()
    work = partial(make_part, directory=directory, config=config, kept=source.kept)
    unfinished = (
        chunk for chunk in chunks(source, config.chunk_rows, config.limit) if not packer.is_done(chunk.number)
    )
    workers = min(config.workers, len(todo))
    with closing(engine(work, unfinished, workers, WINDOW_PER_WORKER * workers)) as outcomes:
        for outcome in _survived(outcomes, directory, display):
            packer.add(outcome.number)
            tally.add(outcome)
            display.update(earlier + tally.rows, tally.note(time.monotonic() - begun))
    index = packer.finish(number_of_chunks)
    samples = sum(shard.samples for shard in index.shards)
    totals = Totals(records=records, samples=samples, failures=records - samples, shards=len(index.shards))
    write_report(directory)
    dataset.finish(totals)


def _survived(
    outcomes: Iterator[ChunkOutcome | Crashed], directory: Path, display: Progress
) -> Iterator[ChunkOutcome]:
    crashes = 0
    for outcome in outcomes:
        if isinstance(outcome, ChunkOutcome):
            crashes = 0
            yield outcome
            continue
        crashes += 1
        if crashes == _CRASHES_IN_A_ROW:
            raise DatasetError(
                f"{directory}: workers died on {crashes} chunks one after the other ({outcome.cause}); "
                "is there memory enough? Run the same command again, perhaps with fewer --workers"
            )
        display.say(
            f"ingest: chunk {outcome.chunk.number} killed its worker twice ({outcome.cause}); "
            f"its {len(outcome.chunk.rows)} URLs are kept as worker_crashed"
        )
        yield make_crashed_part(outcome.chunk, directory)


def _rows_in(numbers: list[int], records: int, chunk_rows: int) -> int:
    return sum(min(chunk_rows, records - number * chunk_rows) for number in numbers)


def _result(dataset: Dataset, tally: _Tally, seconds: float, was_complete: bool) -> IngestResult:
    reasons: Counter[str] = Counter()
    for failures in failures_of(dataset.directory):
        reasons.update(failures["reason"].to_pylist())
    shards = read_index(dataset.directory).shards
    samples = sum(shard.samples for shard in shards)
    return IngestResult(
        out=dataset.directory,
        records=samples + reasons.total(),
        samples=samples,
        failures=dict(reasons.most_common()),
        shards=len(shards),
        report=dataset.directory / REPORT_FILE,
        fetched=tally.rows,
        bytes=tally.bytes,
        seconds=seconds,
        was_complete=was_complete,
    )
