"""A dataset made right again from its tars: all but these is made anew where it is at fault, and told."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipkit.errors import DatasetError
from clipkit.locations import can_list, is_remote
from clipkit.progress import Progress
from clipkit.remote import RemoteError
from clipkit.shards.dataset import DATASET_FILE, Totals, exclusive_use
from clipkit.shards.failure_files import entry_of, next_number, number_of, write_failures
from clipkit.shards.faults import Faults
from clipkit.shards.index import INDEX_FILE, Index, IndexEntry
from clipkit.shards.parquet import write_hashed
from clipkit.shards.records import RecordSet, Rows
from clipkit.shards.remake import remake
from clipkit.shards.repair_result import RepairResult
from clipkit.shards.report import write_report
from clipkit.shards.restate import (
    AS_FOUND,
    LOST_WITH_IT,
    UNPROVEN,
    progress_of,
    restate,
    write_index,
    write_sizes,
)
from clipkit.shards.salvage import OldFailures, OldManifests, lost_failures, old_failures, without_records
from clipkit.shards.schemas import FAILURE_SCHEMA
from clipkit.shards.staging import Staging
from clipkit.shards.verify import how_of, shard_verdicts
from clipkit.shards.verify_shard import Records, ShardVerdict, as_verified, records_of
from clipkit.shards.whole import (
    SIZES_FILE,
    as_found,
    check_is_dataset,
    check_name,
    check_unlisted,
    listed_files,
)


def repair(
    directory: Path,
    *,
    decode: bool = False,
    workers: int | None = None,
    progress: Callable[[str, int | None, str], Progress] = Progress,
) -> RepairResult:
    """Make index, manifests, sizes and totals of the dataset in `directory` anew where they are at fault.

    No tar is written to, renamed or removed. One that is missing, is not as the index has it, or is no shard,
    is left out of the index, and its samples become failures with the reason "lost", which `--retry-failed`
    tries again. All files are replaced as one; a kill at any moment leaves what was, or what the same call
    finishes. Raises DatasetError where there is no dataset, for an unfinished ingest, for tars that bear each
    other's names, and where another process writes it; OSError as the file system does, also for a file that
    is there and may not be opened, and RemoteError for what cannot be had from an address, with nothing
    changed.
    """
    if not can_list(directory):
        raise DatasetError(f"{directory}: expected a disk or a bucket, found a web server; mend a copy there")
    check_is_dataset(directory)
    with exclusive_use(directory), Staging.of(directory) as staging:
        is_other = staging.finish_earlier()
        try:
            staging.begin()
            one = _Repair(directory, decode, staging)
            one.mend(workers, progress)
        except BaseException:
            staging.abandon()
            raise
        if one.changed:
            staging.commit()
        if one.changed or is_other:
            write_report(directory)
        try:
            staging.discard()
        except RemoteError as error:
            raise type(error)(f"{error}; all else of the repair is done") from error
        return one.result()


class _Repair:
    def __init__(self, directory: Path, decode: bool, staging: Staging):
        dataset, files = as_found(directory)
        self.changed: list[str] = []
        self._how = how_of(dataset, decode)
        self._directory = directory
        self._dataset = dataset
        self._files = files
        self._staging = staging
        self._listed = {shard.name: shard for shard in files.shards}
        self._is_trusted = files.is_trusted
        self._manifests = {shard.entry and shard.entry.manifest_sha256 for shard in files.shards}
        self._entries: list[IndexEntry] = []
        self._suspects: list[ShardVerdict] = []
        self._seen = RecordSet()
        self._lost: list[pa.Table] = []
        self._left_out: list[str] = []
        self._doubtful: list[str] = []
        self._others: list[str] = []
        self._unnamed = self._unknown = self._lost_count = 0

    def mend(self, workers: int | None, progress: Callable[[str, int | None, str], Progress]) -> None:
        """Stage all that is to be other than it is."""
        for verdict in shard_verdicts(self._directory, self._files.shards, self._how, workers, progress):
            self._take(verdict)
        self._mend_failures()
        self._mend_shards()
        self._name_lost()
        self._stage()

    def _take(self, verdict: ShardVerdict) -> None:
        """Note a shard without faults; put one with faults aside."""
        if is_remote(self._directory) and verdict.faults.counts["unreadable"]:  # its copy on this machine
            why = next(fault.line() for fault in verdict.faults.listed if fault.cause == "unreadable")
            raise DatasetError(f"{self._directory}: {why}; mend that on this machine and repair again")
        if len(verdict.faults):
            self._suspects.append(verdict)
            return
        entry = self._listed[verdict.name].entry
        if entry is None:
            assert verdict.sha256 and verdict.manifest_sha256
            entry = IndexEntry(
                "shard", verdict.name, verdict.samples, verdict.bytes, verdict.sha256, verdict.manifest_sha256
            )
        self._entries.append(entry)
        if verdict.records:
            self._unknown += verdict.records.unknown
            self._account(verdict.records)

    def _mend_failures(self) -> None:
        """List the failure files that can be read: those at fault last, which may hold others' records."""
        at_fault = []
        for name, entry in self._files.failures:
            old = old_failures(self._directory, name, entry)
            if old.why:
                at_fault.append((name, entry))
            else:
                self._list_failures(name, entry, old)
        for name, entry in at_fault:
            self._list_failures(name, entry, old_failures(self._directory, name, entry))

    def _list_failures(self, name: str, entry: IndexEntry | None, old: OldFailures) -> None:
        if old.table is None:
            self._left_out.append(old.why)
            self._unnamed += entry.samples if entry else 0
            return
        again = self._account(records_of(old.table))
        table, gone = old.without(again) if old.why else (old.table, 0)
        self._unnamed += max(0, entry.samples - len(table)) if entry else gone
        if not len(table):
            return
        if old.why or entry is None:
            if entry is not None or old.is_damaged:  # else it is the index alone that is made anew
                self._doubt(f"{name}: {old.why}", is_certain=old.is_damaged)
            entry = entry_of(self._directory, name, table)
        if old.is_other or gone:
            entry = write_failures(self._staging.folder, number_of(entry), table)
            self.changed.append(name)
        self._entries.append(entry._replace(samples=len(table)))

    def _mend_shards(self) -> None:
        """Make the manifests anew of those put aside whose tars are whole; give up the others."""
        whole = [entry.name for entry in self._entries if entry.kind == "shard"]
        old = OldManifests(self._directory, [verdict.name for verdict in self._suspects], whole)
        for verdict in self._suspects:
            why = self._mend(verdict, old)
            if why is not None:
                self._give_up(verdict, why, old.of(verdict.name))

    def _mend(self, verdict: ShardVerdict, old: OldManifests) -> str | None:
        """List a shard with a manifest made anew; return why it cannot be, if so."""
        entry = self._listed[verdict.name].entry
        if verdict.sha256 is None or verdict.faults.of(("changed", "crashed")):
            return verdict.faults.listed[-1].line()
        is_other = entry is not None and verdict.sha256 != entry.sha256
        if is_other and self._is_trusted:
            suspects = {each.name: each.sha256 for each in self._suspects}
            check_name(self._directory, self._files, verdict, suspects)
        is_vouched_for = entry is not None and verdict.manifest_sha256 == entry.manifest_sha256
        if is_other and (self._is_trusted or (is_vouched_for and verdict.differs_from_manifest)):
            with as_verified(self._directory, verdict):
                return next(fault.line() for fault in verdict.faults.listed if fault.file == verdict.name)
        # What the index vouches for needs no decoding: a picture that differs from its manifest is right.
        how = self._how._replace(decode=is_other or (entry is None and self._how.decode))
        with as_verified(self._directory, verdict) as tar:
            made = remake(tar, verdict.name, how, old.of(verdict.name), old.kept)
        if made.manifest is None:
            return made.broken
        self._others += [f"{verdict.name}: {AS_FOUND}"] if is_other else verdict.beside(entry)
        name, table = verdict.name.replace(".tar", ".parquet"), made.manifest
        again = self._account(records_of(table))
        table = without_records(table, again)
        sha256, found, kept = verdict.manifest_sha256, verdict.manifest_sha256, ""
        if sha256 is None or not old.says_the_same(verdict.name, table):
            sha256 = write_hashed(self._staging.folder / name, table)
            kept = "" if {sha256, found} - {None} & self._manifests else self._staging.keep(name)
            self.changed.append(name)
        is_damaged = verdict.name in old.damaged and sha256 not in self._manifests
        is_listed = entry is not None or self._is_trusted
        if is_damaged or (is_listed and found is not None and not {sha256, found} & self._manifests):
            self._doubt(f"{name}: {old.damaged.get(verdict.name, '')}{AS_FOUND}{kept}", is_certain=is_damaged)
        self._entries.append(
            IndexEntry("shard", verdict.name, len(table), verdict.bytes, verdict.sha256, sha256)
        )
        if made.unknown > max((each["source_row"].null_count for each in old.of(verdict.name)), default=0):
            self._doubtful.append(f"{name}: {LOST_WITH_IT}{kept}")
        self._unknown += made.unknown + len(again)
        return None

    def _give_up(self, verdict: ShardVerdict, why: str, old: Sequence[pa.Table]) -> None:
        parent = self._dataset.description.parent if self._dataset else None
        if parent:  # nothing could fetch its samples again
            raise DatasetError(
                f"{self._directory}: {why}; derive the dataset from {parent.name} again, or leave what is "
                "broken out of another with `clipkit shards filter --skip-broken`"
            )
        self._left_out.append(why)
        entry = self._listed[verdict.name].entry
        named = 0
        if old:
            table = old[0].filter(old[0]["source_row"].is_valid())
            again = self._account(records_of(table))
            table = table.filter(pa.array(~np.isin(np.arange(len(table)), again)))
            named = len(table)
            self._lost.append(lost_failures(table, f"its shard {verdict.name} was lost"))
        self._unnamed += max(0, (entry.samples if entry else named) - named)

    def _name_lost(self) -> None:
        """Name what is accounted for nowhere, where the records of the list can be told."""
        dataset = self._dataset
        if dataset is not None and dataset.is_as_written and dataset.passes:
            found = sum(entry.samples for entry in self._entries) + sum(map(len, self._lost))
            self._unnamed = max(0, dataset.listed - found)
        if not self._unnamed or self._unknown or dataset is None or len(dataset.description.sources) != 1:
            return
        source = dataset.description.sources[0].name
        absent = self._seen.absent(source, dataset.listed)
        if len(absent) == self._unnamed:
            table = pa.table({"source": [source] * len(absent), "source_row": absent})
            self._lost.append(lost_failures(table, "the file that had it was lost"))
            self._unnamed = 0

    def _stage(self) -> None:
        """Write what is other than it was."""
        old = self._files.listing
        index = Index(self._entries, old.progress if old else progress_of(self._dataset))
        lost = pa.concat_tables(self._lost) if self._lost else FAILURE_SCHEMA.empty_table()
        if len(lost):
            entry = write_failures(self._staging.folder, next_number(index), lost)
            index.entries.append(entry)
            self.changed.append(entry.name)
        self.changed += [SIZES_FILE] if write_sizes(self._directory, index, self._staging) else []
        if not self._is_trusted or sorted(old.entries if old else ()) != sorted(index.entries):
            otherwise = index.progress if self._is_trusted else progress_of(self._dataset)
            if not write_index(index, self._dataset, otherwise, self._staging):
                sealed = self._dataset.index_sha256 if self._dataset and self._dataset.is_as_written else None
                self._doubtful += self._others
                self._doubtful += [f"{INDEX_FILE}: {UNPROVEN}"] if old is None and sealed else []
            self.changed.append(INDEX_FILE)
        self._stage_description(index)
        self._lost_count = len(lost)

    def _stage_description(self, index: Index) -> None:
        samples = sum(entry.samples for entry in index.shards)
        failures = sum(entry.samples for entry in index.failure_files)
        totals = Totals(
            records=samples + failures, samples=samples, failures=failures, shards=len(index.shards)
        )
        restated = restate(self._directory, self._dataset, totals, self._staging)
        self.changed += [DATASET_FILE] if restated.changed else []
        self._left_out += [restated.lost] if restated.lost else []
        self._doubtful += [restated.doubtful] if restated.doubtful else []

    def result(self) -> RepairResult:
        """Return what was done."""
        unlisted = Faults()
        check_unlisted(self._directory, listed_files(self._directory, Faults()), unlisted)
        return RepairResult(
            directory=self._directory,
            remade=sorted(self.changed),
            left_out=self._left_out,
            doubtful=self._doubtful,
            lost=self._lost_count,
            unnamed=self._unnamed,
            unknown=self._unknown,
            unlisted=[fault.file for fault in unlisted.listed],
        )

    def _doubt(self, what: str, *, is_certain: bool) -> None:
        """Tell of a file that is not as listed; beside an index at fault, unless that is proven right."""
        (self._doubtful if is_certain or self._is_trusted else self._others).append(what)

    def _account(self, records: Records) -> Rows:
        """Note who is accounted for; return the places of those that were already."""
        return self._seen.add(records.sources, records.of_source, np.maximum(records.rows, 0))
