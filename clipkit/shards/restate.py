"""Index and dataset.json made anew by a repair: what proves them right again, and what they cannot say."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clipkit.atomic import write_json
from clipkit.json_values import parsed_json
from clipkit.locations import read_bytes
from clipkit.shards.dataset import DATASET_FILE, Dataset, DatasetDescription, Totals
from clipkit.shards.failure_files import number_of
from clipkit.shards.index import INDEX_FILE, Index, IngestProgress, index_sha256
from clipkit.shards.seal import INDEX_SEAL, is_sealed, write_sealed
from clipkit.shards.staging import KEPT, Staging
from clipkit.shards.whole import SIZES_FILE

AS_FOUND = "taken as found, which is not as it was written: values of it may be wrong; restore it from a copy"

UNPROVEN = (
    f"made anew, and not the one that {DATASET_FILE} has the SHA-256 of: what it lists may not be as it was "
    "written, for which nothing else vouches; restore it from a copy"
)
LOST_WITH_IT = "made without the URLs, source records and hashes that only it had; restore it from a copy"


class Restated(NamedTuple):
    """Whether the file was made anew; what of it is lost, or doubtful, in a line each, or None."""

    changed: bool = False
    lost: str | None = None
    doubtful: str | None = None


def write_index(index: Index, dataset: Dataset | None, otherwise: IngestProgress, staging: Staging) -> bool:
    """Stage the index; tell whether it is the very one that the dataset was finished with.

    If not, it is written with `otherwise` for its progress, of which an index at fault tells nothing.
    """
    wanted = dataset.index_sha256 if dataset is not None else None
    for progress in dict.fromkeys((index.progress, *_finished(index, dataset))) if wanted else ():
        index.progress = progress
        index.write(staging.folder)
        if index_sha256(staging.folder) == wanted:
            staging.keep_no_manifests()  # all are as they were written
            return True
    index.progress = otherwise
    index.write(staging.folder)
    return False


def _finished(index: Index, dataset: Dataset | None) -> Iterator[IngestProgress]:
    """Yield what the progress of a finished ingest may be: its last pass's first failure file is not told."""
    if dataset is not None and dataset.passes:
        chunks = -(-dataset.passes[-1].records // max(1, dataset.description.chunk_rows))
        numbers = {number_of(entry) for entry in index.failure_files}
        for first in sorted({0} | numbers | {number + 1 for number in numbers}):
            yield IngestProgress(len(dataset.passes) - 1, chunks, 0, chunks, first)


def progress_of(dataset: Dataset | None) -> IngestProgress:
    """Return the progress of a finished ingest, as far as its passes tell it."""
    return IngestProgress(pass_number=max(0, len(dataset.passes) - 1) if dataset else 0)


def write_sizes(directory: Path, index: Index, staging: Staging) -> bool:
    """Stage sizes.json, if it has to be another one; tell whether."""
    sizes = {shard.name: shard.samples for shard in sorted(index.shards, key=lambda each: each.name)}
    try:
        if parsed_json(read_bytes(directory / SIZES_FILE)) == sizes:
            return False
    except (OSError, ValueError):
        pass
    write_json(staging.folder / SIZES_FILE, sizes)
    return True


def restate(directory: Path, dataset: Dataset | None, totals: Totals, staging: Staging) -> Restated:
    """Stage the dataset's description, if it has to be another one; `dataset` is what can be read of it.

    The index must have been staged, if it is. Raises OSError as the file system does.
    """
    is_staged = (staging.folder / INDEX_FILE).exists()
    index = index_sha256(staging.folder if is_staged else directory)
    if dataset is None:
        Dataset(staging.folder, DatasetDescription(sources=(), image={})).finish(totals, index)
        kept = f", or mend {KEPT}, which has what was there" if staging.keep(DATASET_FILE) else ""
        return Restated(
            True, f"{DATASET_FILE}: what the dataset was made of is lost; restore it from a copy{kept}"
        )
    if dataset.is_as_written and dataset.totals == totals and dataset.index_sha256 in (None, index):
        return Restated()
    content = parsed_json(read_bytes(directory / DATASET_FILE))
    content |= {"totals": totals.model_dump()}
    content |= {INDEX_SEAL: index} if INDEX_SEAL in content else {}
    write_sealed(staging.folder / DATASET_FILE, content)
    if dataset.is_as_written or is_sealed(content):  # nothing else of it was at fault
        return Restated(True)
    return Restated(True, doubtful=f"{DATASET_FILE}: {AS_FOUND}{staging.keep(DATASET_FILE)}")
