"""A whole dataset, verified: every file against the index, and all of them together against each other."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from clipkit.cpus import available_cpus
from clipkit.errors import DatasetError
from clipkit.locations import each_of, is_remote
from clipkit.pictures import MAX_PIXELS
from clipkit.progress import Progress
from clipkit.shards.dataset import Dataset
from clipkit.shards.failure_check import check_failures
from clipkit.shards.faults import Fault, Faults
from clipkit.shards.index import IndexEntry, file_sizes
from clipkit.shards.pool import Died, mapped
from clipkit.shards.verify_shard import How, Listed, ShardVerdict, verify_shard
from clipkit.shards.whole import Counted, check_is_dataset, check_whole, described, listed_files
from clipkit.tables import size, table
from clipkit.threads import mapped_in_threads

_FEW_BYTES = 500_000_000  # less than this is read sooner than processes are started
_WAITING = 8  # shards at a time that are waited for, behind an address


class VerifyResult(NamedTuple):
    """What was verified, and what is wrong with it: `counts` of all faults by cause, the first `faults`.

    `unknown` of the samples are of no known source record, as after a repair without manifests.
    """

    directory: Path
    shards: int
    samples: int
    failures: int
    unknown: int
    bytes: int
    decoded: bool
    seconds: float
    counts: dict[str, int]
    faults: list[Fault]

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.counts

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        faults = [fault.as_json() for fault in self.faults]
        return {**self._asdict(), "directory": str(self.directory), "ok": self.ok, "faults": faults}

    def lines(self) -> str:
        """Return the faults, one a line, and the counts."""
        counts = [
            ("shards", f"{self.shards:,}"),
            ("samples", f"{self.samples:,}" + (", each decoded" if self.decoded else "")),
            ("failures", f"{self.failures:,}"),
            ("read", f"{size(self.bytes)} in {self.seconds:.1f} s"),
            ("faults", f"{sum(self.counts.values()):,}"),
            *((f"  {cause}", f"{count:,}") for cause, count in self.counts.items()),
        ]
        if self.unknown:
            counts.insert(2, ("  of unknown records", f"{self.unknown:,}"))
        listed = [fault.line() for fault in self.faults]
        left = sum(self.counts.values()) - len(listed)
        listed += [f"and {left:,} more"] if left else []
        return "\n".join([*listed, *([""] if listed else []), table(counts)])

    def check(self) -> None:
        """Raise DatasetError, one line, if there is any fault."""
        if not self.ok:
            causes = ", ".join(f"{cause} {count:,}" for cause, count in self.counts.items())
            remedy = (
                "restore them from a copy; `clipkit shards filter --skip-broken` copies what is whole, "
                "`--repair` makes all but the tars anew"
            )
            if "unfinished" in self.counts:
                remedy = "run the command that was interrupted again, it goes on; then verify again"
            raise DatasetError(
                f"{self.directory}: expected no faults, found {sum(self.counts.values()):,} ({causes}); "
                f"{remedy}"
            )


def verify(
    directory: Path,
    *,
    decode: bool = False,
    workers: int | None = None,
    progress: Callable[[str, int | None, str], Progress] = Progress,
) -> VerifyResult:
    """Verify the dataset in `directory`, with `decode` each picture of it too; nothing is written.

    `workers` processes read the shards; by default one a CPU, behind an address eight, or threads of this
    one where that is as fast. Raises DatasetError where there is no dataset,
    behind an address also for other files of its names, or one of another version; all else that is wrong
    with it is among the faults.
    """
    begun = time.monotonic()
    check_is_dataset(directory)
    faults = Faults()
    dataset, files = described(directory, faults), listed_files(directory, faults)
    if is_remote(directory) and dataset is None and files.listing is None:
        raise DatasetError(f"{directory}: expected a dataset, found {faults.listed[-1].line()}")
    counted = Counted(faults)
    samples = {}
    for verdict in shard_verdicts(directory, files.shards, how_of(dataset, decode), workers, progress):
        counted.shard(verdict)
        samples[verdict.name] = verdict.samples
    tables = each_of(partial(_failures, directory), files.failures, remote=is_remote(directory))
    for (name, entry), (failures, found) in zip(files.failures, tables, strict=True):
        faults.take(found)
        counted.failures_in(name, failures, entry)
    check_whole(directory, dataset, files, samples, counted)
    return VerifyResult(
        directory=directory,
        shards=len(files.shards),
        samples=counted.samples,
        failures=counted.failures,
        unknown=counted.unknown,
        bytes=counted.bytes,
        decoded=decode,
        seconds=time.monotonic() - begun,
        counts=dict(faults.counts.most_common()),
        faults=faults.listed,
    )


def how_of(dataset: Dataset | None, decode: bool) -> How:
    """Return how the dataset's shards are to be verified."""
    image = dataset.description.image if dataset else {}
    most = image.get("max_pixels")
    pixels = most if isinstance(most, int) and not isinstance(most, bool) else MAX_PIXELS
    return How(decode, image.get("keep_original") is True, max(pixels, MAX_PIXELS))


def shard_verdicts(
    directory: Path,
    shards: Sequence[Listed],
    how: How,
    workers: int | None,
    progress: Callable[[str, int | None, str], Progress],
) -> Iterator[ShardVerdict]:
    """Yield what was found in each shard, read by several processes; that one of them dies is a fault."""
    remote = is_remote(directory)
    # A decoder that a damaged picture kills must not take this process along.
    if workers is None and not how.decode and (remote or _are_few_bytes(directory, shards)):
        workers = 0
    elif workers is None:
        workers = max(available_cpus(), _WAITING if remote else 0)
    one = partial(verify_shard, directory, how=how)
    verdicts: Iterator[tuple[Listed, ShardVerdict | Died]]
    if remote and not workers:
        verdicts = zip(shards, mapped_in_threads(one, shards, _WAITING, ahead=1), strict=True)
    else:
        verdicts = mapped(one, shards, min(workers, len(shards)))
    done = read = found = 0
    begun = time.monotonic()
    with progress("verify", len(shards), "shards") as display:
        for listed, verdict in verdicts:
            if isinstance(verdict, Died):
                verdict = ShardVerdict(listed.name, Faults())
                words = "expected to read the shard, found that a process dies of it twice"
                verdict.faults.add("crashed", listed.name, words)
            done, read, found = done + 1, read + verdict.bytes, found + len(verdict.faults)
            pace = read / max(1e-3, time.monotonic() - begun)
            display.update(done, f"{size(read)}, {size(round(pace))}/s, {found:,} faults")
            yield verdict


def _failures(directory: Path, listed: tuple[str, IndexEntry | None]) -> tuple[pa.Table | None, Faults]:
    faults = Faults()
    return check_failures(directory, *listed, faults), faults


def _are_few_bytes(directory: Path, shards: Sequence[Listed]) -> bool:
    sizes = file_sizes([directory / shard.name for shard in shards])
    return sum(found or 0 for found in sizes) < _FEW_BYTES
