"""One ingest from a source to a finished dataset, or on from where the last one stopped."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from clipkit.errors import DatasetError, SourceError
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.engines.engine import Crashed, Engine
from clipkit.ingest.engines.local import local
from clipkit.ingest.engines.names import ON_THIS_MACHINE
from clipkit.ingest.preflight import preflight
from clipkit.ingest.report import REPORT_FILE, write_report
from clipkit.ingest.rows import Chunk, ChunkOutcome
from clipkit.ingest.sources import Source, chunks
from clipkit.ingest.tally import Tally
from clipkit.ingest.worker import PartMaker, Underway
from clipkit.progress import Progress
from clipkit.shards.dataset import Dataset, DatasetDescription, Totals, open_for_ingest
from clipkit.shards.index import read_index
from clipkit.shards.packing import Packer
from clipkit.shards.summary import failures_of
from clipkit.tables import size, table

WINDOW_PER_WORKER = 16  # so many chunks wait for the slowest URL of the oldest before a worker does
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
    source cannot be read, NetworkError if no request could get anywhere, EngineError as the engine does,
    OSError as the file system does.
    Stopped at any moment, the same call goes on where it was.
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
    tally = Tally()
    with open_for_ingest(out, description) as dataset:
        was_complete = dataset.complete
        if not was_complete:
            with progress("ingest", records, "URLs") as display:
                _fill(dataset, source, records, config, engine, display, tally)
        result = _result(dataset, tally, time.monotonic() - begun, was_complete)
        if crashed := result.failures.get("worker_crashed"):
            raise DatasetError(
                f"{out}: complete but for {crashed:,} URLs whose workers died twice, kept as worker_crashed "
                "failures; was there memory enough, or is there a picture that kills its reader?"
            )
        if result.records and not result.samples:
            raise DatasetError(_nothing(result))
        return result


def _nothing(result: IngestResult) -> str:
    reason, count = next(iter(result.failures.items()))
    hint = "; if the hosts are yours, start anew with --allow-private-hosts" if reason == "address" else ""
    return (
        f"{result.out}: none of {result.records:,} URLs gave a sample, {count:,} of them ended as {reason}"
        f"{hint}; {result.report} tells more"
    )


def _fill(
    dataset: Dataset,
    source: Source,
    records: int,
    config: IngestConfig,
    engine: Engine,
    display: Progress,
    tally: Tally,
) -> None:
    directory = dataset.directory
    packer = Packer(directory)
    number_of_chunks = -(-records // config.chunk_rows)
    todo = [number for number in range(number_of_chunks) if not packer.is_done(number)]
    earlier = records - _rows_in(todo, records, config.chunk_rows)
    if earlier:
        display.say(f"ingest: going on in {directory} after {earlier:,} of {records:,} URLs")
    begun = time.monotonic()
    make_part = PartMaker(directory, config, tuple(source.kept))
    every = _all_of(chunks(source, config.chunk_rows, config.limit), records)
    unfinished: Iterator[Chunk] = (chunk for chunk in every if not packer.is_done(chunk.number))
    if engine in ON_THIS_MACHINE:  # the others' network is another one
        unfinished = _after_preflight(unfinished, config)
    workers = min(config.processes, len(todo))
    with closing(engine(make_part, unfinished, workers, WINDOW_PER_WORKER * workers)) as outcomes:
        for outcome in _survived(outcomes, make_part, display):
            if isinstance(outcome, ChunkOutcome):
                packer.add(outcome.number)
                tally.finish(outcome)
            else:
                tally.note(outcome)
            seconds = time.monotonic() - begun
            display.update(
                earlier + tally.rows, tally.words(seconds), tally.figures(records, earlier, seconds)
            )
    index = packer.finish(number_of_chunks)
    samples = sum(shard.samples for shard in index.shards)
    totals = Totals(records=records, samples=samples, failures=records - samples, shards=len(index.shards))
    write_report(directory)
    dataset.finish(totals)


def _all_of(cut: Iterator[Chunk], records: int) -> Iterator[Chunk]:
    seen = 0
    for chunk in cut:
        seen += len(chunk.rows)
        yield chunk
    if seen != records:
        raise SourceError(
            f"the list changed while it was read: {records:,} records at first, then {seen:,}; "
            "ingest the list as it is now into a new directory"
        )


def _after_preflight(chunks: Iterator[Chunk], config: IngestConfig) -> Iterator[Chunk]:
    first = list(itertools.islice(chunks, 1))
    for chunk in first:
        preflight([row for row in chunk.rows if row.file is None], config)
    return itertools.chain(first, chunks)


def _survived(
    outcomes: Iterator[ChunkOutcome | Underway | Crashed], make_part: PartMaker, display: Progress
) -> Iterator[ChunkOutcome | Underway]:
    crashes = 0
    for outcome in outcomes:
        if not isinstance(outcome, Crashed):
            crashes = 0 if isinstance(outcome, ChunkOutcome) else crashes
            yield outcome
            continue
        crashes += 1
        if crashes == _CRASHES_IN_A_ROW:
            raise DatasetError(
                f"{make_part.directory}: workers died on {crashes} chunks one after the other "
                f"({outcome.cause}); is there memory enough? Run the same command again, perhaps with "
                "fewer --workers"
            )
        display.say(
            f"ingest: chunk {outcome.chunk.number} killed its worker twice ({outcome.cause}); "
            f"its {len(outcome.chunk.rows)} URLs are kept as worker_crashed"
        )
        yield make_part.crashed(outcome.chunk)


def _rows_in(numbers: list[int], records: int, chunk_rows: int) -> int:
    return sum(min(chunk_rows, records - number * chunk_rows) for number in numbers)


def _result(dataset: Dataset, tally: Tally, seconds: float, was_complete: bool) -> IngestResult:
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
