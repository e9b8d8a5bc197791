"""Ingest from a source to a finished dataset, or on from where the last one stopped."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from clipkit.errors import DatasetError, SourceError
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.engines.engine import Crashed, Engine
from clipkit.ingest.engines.img2dataset import with_img2dataset
from clipkit.ingest.engines.local import local
from clipkit.ingest.local_files import look_for_pictures
from clipkit.ingest.preflight import preflight
from clipkit.ingest.result import IngestResult, result_of
from clipkit.ingest.rows import Chunk, ChunkOutcome, UrlRow
from clipkit.ingest.sources import Source, chunks
from clipkit.ingest.tally import Tally
from clipkit.ingest.worker import PartMaker, Underway
from clipkit.progress import Progress
from clipkit.shards.dataset import Dataset, DatasetDescription, Pass, Totals, open_for_writing
from clipkit.shards.failure_files import count_retryable, first_detail, urls_to_retry
from clipkit.shards.packing import Packer
from clipkit.shards.parts import parts_folder
from clipkit.shards.passes import Retried, prepare_pass
from clipkit.shards.report import write_report
from clipkit.shards.schemas import REASONS
from clipkit.shards.text_files import shortened

WINDOW_PER_WORKER = 16  # so many chunks wait for the slowest URL of the oldest before a worker does
_CRASHES_IN_A_ROW = 3
_TRIED_FIRST = 1000  # records among which the pre-flight looks for hosts
_LOOKED_FOR_SECONDS = 5.0
_ON_THIS_MACHINE = (local, with_img2dataset)
"""The engines whose requests begin here: the network of the others is another one."""
_ALLOWED_BY = {"address": "--allow-private-hosts", "opted_out": "--ignore-robots-tag"}


def ingest(
    source: Source,
    out: Path,
    config: IngestConfig,
    *,
    retry_failed: bool = False,
    progress: Callable[[str, int | None, str], Progress] = Progress,
    engine: Engine = local,
) -> IngestResult:
    """Download `source` into the dataset at `out`; continue there if an earlier run was stopped.

    A finished dataset takes the records that a larger limit adds, and with `retry_failed` those that had
    failed for a reason that may pass, as further passes whose samples are appended. Stopped at any moment,
    the same call goes on where it was. Raises DatasetError if `out` holds something else or workers died
    again and again, SourceError if the source cannot be read or asks for what `config` does not allow,
    NetworkError if no request could get anywhere, EngineError as the engine does, OSError as the file
    system does.
    """
    if config.keep_original and "blur_col" in source.reading:
        raise SourceError(
            "expected --blur-col or --keep-original, found both: bytes that are stored as served are not "
            "blurred; leave one out"
        )
    if not source.records:
        names = shortened(", ".join(file.name for file in source.files), 200)
        raise SourceError(f"{names}: expected records to make samples of, found none; is it the right list?")
    wanted = source.records if config.limit is None else min(source.records, config.limit)
    description = DatasetDescription(
        sources=source.files,
        image=config.image_settings,
        chunk_rows=config.chunk_rows,
        reading=dict(source.reading),
    )
    begun = time.monotonic()
    tallies: list[Tally] = []
    with open_for_writing(out, description) as dataset:
        for which in _passes(dataset, wanted, retry_failed=retry_failed):
            first = [] if tallies else _tried_first(source, dataset, which, engine)
            is_here = engine in _ON_THIS_MACHINE
            if first and is_here:
                preflight(first, config)
            one = _OnePass(dataset, which, source, config, engine, () if is_here else tuple(first))
            with progress(one.title, which.records, "URLs") as display:
                one.make(display)
            tallies.append(one.tally)
        result = result_of(out, tallies, time.monotonic() - begun)
    _judge(result)
    return result


def _passes(dataset: Dataset, wanted: int, *, retry_failed: bool) -> Iterator[Pass]:
    if wanted < dataset.listed:
        raise DatasetError(
            f"{dataset.directory}: expected a limit of at least the {dataset.listed:,} records that it was "
            f"made of, found {wanted:,}; give that or a larger one, or choose another --out"
        )
    unfinished = dataset.passes[-1] if dataset.passes and not dataset.complete else None
    if unfinished:
        yield unfinished
    if wanted > dataset.listed or not dataset.passes:
        yield Pass(kind="list", first=dataset.listed, records=wanted - dataset.listed)
    last = dataset.passes[-1]
    is_retried = last is unfinished and last.kind == "retry"
    if retry_failed and not is_retried and (records := count_retryable(dataset.directory)):
        yield Pass(kind="retry", records=records)


def _tried_first(source: Source, dataset: Dataset, which: Pass, engine: Engine) -> list[UrlRow]:
    """Return rows by whose hosts to see whether there is a network where the engine asks from."""
    from urllib.request import getproxies

    if engine is with_img2dataset and getproxies():
        return []  # it takes one from the environment, which may look all names up
    listed = max(dataset.listed, which.first + which.records)
    if source.reading.get("kind") == "files":  # of a retry, too: its disk may be gone
        if engine in _ON_THIS_MACHINE:
            look_for_pictures(source.stretch(0, listed))
        return []
    if which.kind == "retry" and dataset.complete:  # not begun: what it tries may stand far behind
        urls = itertools.islice(urls_to_retry(dataset.directory), _TRIED_FIRST)
        return [UrlRow("", 0, url, "") for url in urls]
    first: list[UrlRow] = []
    begun = time.monotonic()
    with closing(source.stretch(0, listed)) as rows:
        for row in itertools.islice(rows, _TRIED_FIRST):
            first.append(row)
            if time.monotonic() - begun > _LOOKED_FOR_SECONDS:
                break  # they may lie far apart in the metadata that they come from
    return first


def _judge(result: IngestResult) -> None:
    if crashed := result.failures.get("worker_crashed"):
        raise DatasetError(
            f"{result.out}: complete but for {crashed:,} URLs whose workers died twice, kept as "
            "worker_crashed failures; was there memory enough, or is there a picture that kills its reader? "
            "--retry-failed tries them again"
        )
    if result.records and not result.samples:
        reason, count = next(iter(result.failures.items()))
        option = _ALLOWED_BY.get(reason)
        hint = f"; if the hosts are yours, start anew with {option}" if option else ""
        raise DatasetError(
            f"{result.out}: none of {result.records:,} URLs gave a sample, {count:,} of them ended as "
            f"{reason} ({shortened(first_detail(result.out, reason), 200)}){hint}; {result.report} tells more"
        )


class _OnePass:
    """A pass, from wherever it stands to its end."""

    def __init__(
        self,
        dataset: Dataset,
        which: Pass,
        source: Source,
        config: IngestConfig,
        engine: Engine,
        first: tuple[UrlRow, ...],
    ):
        self.dataset = dataset
        self.which = which
        self.source = source
        self.config = config
        self.engine = engine
        self.first = first
        self.tally = Tally()
        self.title = "ingest" if which.kind == "list" else "retry"

    @property
    def number(self) -> int:
        """The pass's place among the dataset's, once it has begun."""
        return len(self.dataset.passes) - 1

    def make(self, display: Progress) -> None:
        dataset = self.dataset
        goes_on = bool(dataset.passes) and not dataset.complete
        number = len(dataset.passes) - goes_on
        prepared = prepare_pass(dataset.directory, number, retry=self.which.kind == "retry")
        if not goes_on:
            dataset.begin(self.which)
        if prepared:
            prepared.write(dataset.directory)
        packer = Packer(dataset.directory)
        number_of_chunks = -(-self.which.records // self.config.chunk_rows)
        todo = [number for number in range(number_of_chunks) if not packer.is_done(number)]
        if todo:
            self._fill(packer, todo, display)
        else:
            display.update(self.which.records)
        index = packer.finish(number_of_chunks)
        samples = sum(shard.samples for shard in index.shards)
        failures = sum(file.samples for file in index.failure_files)
        if samples + failures != dataset.listed:
            raise DatasetError(
                f"{dataset.directory}: expected {dataset.listed:,} records to be samples or failures, found "
                f"{samples:,} and {failures:,}; was a file of it changed? Ingest into a new directory"
            )
        totals = Totals(records=dataset.listed, samples=samples, failures=failures, shards=len(index.shards))
        write_report(dataset.directory)
        dataset.finish(totals, index.sha256)

    def _fill(self, packer: Packer, todo: list[int], display: Progress) -> None:
        directory, records, config = self.dataset.directory, self.which.records, self.config
        earlier = records - _rows_in(todo, records, config.chunk_rows)
        if earlier:
            display.say(f"{self.title}: going on in {directory} after {earlier:,} of {records:,} URLs")
        if config.workers > config.processes:
            display.say(f"{self.title}: {config.processes} workers, as --per-host {config.per_host} allows")
        begun = time.monotonic()
        make_part = PartMaker(directory, self.number, config, tuple(self.source.kept), tried_first=self.first)
        workers = min(config.processes, len(todo))
        unfinished = (chunk for chunk in self._chunks() if not packer.is_done(chunk.number))
        with closing(self.engine(make_part, unfinished, workers, WINDOW_PER_WORKER * workers)) as outcomes:
            for outcome in _survived(outcomes, make_part, display):
                if isinstance(outcome, ChunkOutcome):
                    packer.add(outcome.number)
                    self.tally.finish(outcome)
                else:
                    self.tally.note(outcome)
                if remark := self.tally.remark(config.per_host):
                    display.say(remark)
                seconds = time.monotonic() - begun
                figures = self.tally.figures(records, earlier, seconds)
                display.update(earlier + self.tally.rows, self.tally.words(seconds), figures)

    def _chunks(self) -> Iterator[Chunk]:
        seen = 0
        for chunk in chunks(self._rows(), self.config.chunk_rows):
            seen += len(chunk.rows)
            yield chunk
        expected = self.which.records
        if seen != expected:
            raise SourceError(
                f"the list changed while it was read: {expected:,} records at first, then {seen:,}; "
                "ingest the list as it is now into a new directory"
            )

    def _rows(self) -> Iterator[UrlRow]:
        if self.which.kind == "list":
            yield from self.source.stretch(self.which.first, self.which.records)
            return
        retried = Retried(parts_folder(self.dataset.directory, self.number))
        with closing(self.source.read()) as every:
            rows = (row for row in every if (row.source, row.source_row) in retried)
            for row in itertools.islice(rows, self.which.records):  # behind the last one nothing is read
                # What another tool could not fetch is a problem of the record until it is tried here.
                yield row._replace(problem=None) if row.problem and REASONS[row.reason] else row


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
