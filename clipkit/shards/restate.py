"""Index and dataset.json made anew by a repair: what proves them right again, and what they cannot say."""

from pathlib import Path
from typing import NamedTuple

from clipkit.json_values import parsed_json
from clipkit.locations import read_bytes
from clipkit.shards.dataset import DATASET_FILE, Dataset, DatasetDescription, Totals
from clipkit.shards.index import INDEX_FILE, Index, IngestProgress, index_sha256
from clipkit.shards.seal import INDEX_SEAL, is_sealed, write_sealed
from clipkit.shards.staging import KEPT, Staging

AS_FOUND = "taken as found, which is not as it was written: values of it may be wrong; restore it from a copy"

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
    index.write(staging.folder)
    if dataset is not None and index_sha256(staging.folder) == dataset.index_sha256:
        return True
    index.progress = otherwise
    index.write(staging.folder)
    return False


def restate(directory: Path, dataset: Dataset | None, totals: Totals, staging: Staging) -> Restated:
    """Stage the dataset's description, if it has to be another one; `dataset` is what can be read of it.

    The index must have been staged, if it is. Raises OSError as the file system does.
    """
    is_staged = (staging.folder / INDEX_FILE).exists()
    index = index_sha256(staging.folder if is_staged else directory)
    if dataset is None:
        Dataset(staging.folder, DatasetDescription(sources=(), image={})).finish(totals, index)
        kept = f", or mend {KEPT}, which has what was there" if staging.keep_description() else ""
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
    staging.keep_description()
    return Restated(True, doubtful=f"{DATASET_FILE}: {AS_FOUND}; what was there is kept as {KEPT}")
