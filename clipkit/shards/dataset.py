"""The dataset directory as its writers see it: what it was made from, created or continued under a lock."""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from clipkit._version import VERSION
from clipkit.atomic import TEMPORARIES, make_folder
from clipkit.differences import differences, told
from clipkit.errors import DatasetError, NoDatasetError, first_fault
from clipkit.json_values import parsed_json
from clipkit.locations import decoded, is_remote, read_bytes
from clipkit.locks import Held, exclusive
from clipkit.remote import RefusedError
from clipkit.shards.half_repaired import check_not_half_repaired
from clipkit.shards.seal import INDEX_SEAL, is_sealed, write_sealed

DATASET_FILE = "dataset.json"
LOCK_FILE = ".lock"
FORMAT = "clipkit-dataset"
FORMAT_VERSION = 1
MAX_JSON_BYTES = 1 << 28  # of a million sources there are half of it


class OtherVersion(DatasetError):  # noqa: N818 (nothing is wrong with the dataset)
    """A dataset of a format that this release does not know."""


class SourceFile(BaseModel):
    """One file of the source list: its name as it stands in manifests, size in bytes, SHA-256 in hex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Parent(BaseModel):
    """What a derived dataset was made from and how: `samples` = its own samples + the sum of `left_out`.

    `fingerprint` and `index_sha256` are those of the parent's index, `samples` and `failures` its counts.
    `command` chose by `settings`; `left_out` counts the samples not chosen by cause, `lost` those of broken
    shards by shard, which are among them. `chosen_sha256` is that of one bit a sample, first ones highest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str
    index_sha256: str
    samples: int
    failures: int
    command: str
    settings: dict[str, Any]
    left_out: dict[str, int]
    lost: dict[str, int]
    chosen_sha256: str
    parent: "Parent | None" = None


class DatasetDescription(BaseModel):
    """What a dataset is made from; another description is another dataset.

    `image` holds the settings that the pictures' bytes depend on, `chunk_rows` how many records make a
    chunk, `reading` how the files were read (which columns, say). A derived dataset has a `parent`, from
    which the rest is taken.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[SourceFile, ...]
    image: dict[str, int | float | bool | str | None]
    chunk_rows: int = 1000
    reading: dict[str, str | bool] = {}
    parent: Parent | None = None


class Pass(BaseModel):
    """One pass over the source, which appends shards; the last shard of each may be shorter than others.

    A "list" pass takes `records` records of the source from number `first` (0-based) on, which no earlier
    pass took; a "retry" pass those `records` that had failed for a reason that may pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["list", "retry"]
    first: int = 0
    records: int


class Totals(BaseModel):
    """The counts of a completed dataset; `records` = `samples` + `failures`, a derived one's own samples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    records: int
    samples: int
    failures: int
    shards: int


class Dataset:
    """A dataset directory held for writing. All its `passes` but the last one are complete.

    `index_sha256` is that of its index when it was finished, None where that is not known; `is_as_written`
    tells whether the file that all this was read from is.
    """

    def __init__(
        self,
        directory: Path,
        description: DatasetDescription,
        passes: tuple[Pass, ...] = (),
        totals: Totals | None = None,
        index_sha256: str | None = None,
        is_as_written: bool = True,
    ):
        self.directory = directory
        self.description = description
        self.passes = passes
        self.totals = totals
        self.index_sha256 = index_sha256
        self.is_as_written = is_as_written

    @property
    def complete(self) -> bool:
        """Whether the last pass has finished."""
        return self.totals is not None

    @property
    def was_complete(self) -> bool:
        """Whether it was finished once, as a damaged file may still tell."""
        return self.complete or (not self.is_as_written and self.index_sha256 is not None)

    @property
    def listed(self) -> int:
        """How many records of the source the passes so far take, from its first one on."""
        return sum(each.records for each in self.passes if each.kind == "list")

    def begin(self, following: Pass) -> None:
        """Begin another pass: until it has finished, the dataset is not complete."""
        self.passes, self.totals, self.index_sha256 = (*self.passes, following), None, None
        self._write()

    def finish(self, totals: Totals, index_sha256: str | None = None) -> None:
        """Write the totals, and the index's SHA-256, if it is known: from now on the dataset is complete."""
        self.totals, self.index_sha256 = totals, index_sha256
        self._write()

    def _write(self) -> None:
        content: dict[str, Any] = {"format": FORMAT, "version": FORMAT_VERSION, "clipkit": VERSION}
        content |= self.description.model_dump(mode="json")
        content["passes"] = [each.model_dump() for each in self.passes]
        content["totals"] = self.totals.model_dump() if self.totals else None
        content["parent"] = content.pop("parent")  # behind the totals: it may be long
        if self.index_sha256:
            content[INDEX_SEAL] = self.index_sha256
        write_sealed(self.directory / DATASET_FILE, content)


@contextmanager
def open_for_writing(directory: Path, description: DatasetDescription) -> Iterator[Dataset]:
    """Create the dataset in `directory`, or continue the one there, with the directory locked.

    Raises DatasetError if the directory holds something else, a dataset of another description (the
    difference is in the message), or is being written by another process.
    """
    check_can_hold_dataset(directory)
    make_folder(directory)
    with exclusive_use(directory, ", or choose another --out"):
        check_not_half_repaired(directory)
        dataset = read_dataset_if_any(directory)
        if dataset is not None:
            _check_same(directory, dataset.description, description)
        else:
            dataset = Dataset(directory, description)
            dataset._write()
        yield dataset


def is_unfinished(directory: Path) -> bool:
    """Tell whether an ingest into `directory` was begun and has not finished. Raises as `read_dataset`."""
    dataset = read_dataset_if_any(directory)
    return dataset is not None and not dataset.complete


def read_dataset_if_any(directory: Path) -> Dataset | None:
    """Read `dataset.json`, None where there is none. Raises as `read_dataset` for all else."""
    try:
        return read_dataset(directory)
    except NoDatasetError:
        return None


def read_dataset(directory: Path) -> Dataset:
    """Read `dataset.json`. Raises NoDatasetError if there is none, DatasetError if damaged, OtherVersion."""
    path = directory / DATASET_FILE
    try:
        content = parsed_json(read_bytes(path, MAX_JSON_BYTES))
    except FileNotFoundError:
        raise NoDatasetError(
            f"{directory}: expected a dataset directory, found no {DATASET_FILE} in it"
        ) from None
    except ValueError:
        raise DatasetError(
            f"{path}: expected JSON, found something else; was the file edited or cut off?"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DatasetError(f'{path}: expected "format": "{FORMAT}", found another file of that name')
    if content.get("version") != FORMAT_VERSION and not is_sealed(content):
        raise DatasetError(f"{path}: expected a format version, found a damaged one; was the file edited?")
    if content.get("version") != FORMAT_VERSION:
        raise OtherVersion(
            f"{path}: expected format version {FORMAT_VERSION}, found {content.get('version')!r}; "
            "read it with the clipkit release that wrote it"
        )
    try:
        described = {name: content[name] for name in DatasetDescription.model_fields if name in content}
        passes = TypeAdapter(tuple[Pass, ...]).validate_python(content.get("passes", ()))
        totals = Totals.model_validate(content["totals"]) if content.get("totals") else None
        return Dataset(
            directory,
            DatasetDescription.model_validate(described),
            passes,
            totals,
            content.get(INDEX_SEAL),
            is_sealed(content),
        )
    except ValidationError as error:
        raise DatasetError(f"{path}: {first_fault(error)}; was the file edited?") from None


def check_can_hold_dataset(directory: Path) -> None:
    """Raise DatasetError if `directory` is there, and neither empty nor a dataset, or cannot be named.

    So it does for a new one inside a dataset, whose next ingest clears what it does not know.
    """
    if decoded(str(directory)) != str(directory):
        raise DatasetError(f"{str(directory)!r}: expected a name in UTF-8; choose another --out")
    if _is_dataset(directory.parent) and not (directory / DATASET_FILE).exists():
        raise DatasetError(
            f"{directory}: expected a directory outside of datasets, found one inside; choose another --out"
        )
    if not directory.exists():
        return
    if not directory.is_dir():
        raise DatasetError(
            f"{directory}: expected a new or empty directory, found a file; choose another --out"
        )
    names = {path.name for path in directory.iterdir() if not fnmatch(path.name, TEMPORARIES)} - {LOCK_FILE}
    if names and DATASET_FILE not in names:
        raise DatasetError(
            f"{directory}: expected a new or empty directory or a clipkit dataset, found {min(names)!r}"
            f"{f' and {len(names) - 1} more' if len(names) > 1 else ''}; choose another --out"
        )


def _is_dataset(directory: Path) -> bool:
    try:
        return (directory / DATASET_FILE).exists()
    except RefusedError:  # who may write in a folder may yet not be let look above it
        return False


def _check_same(directory: Path, old: DatasetDescription, new: DatasetDescription) -> None:
    different = differences(_flat(old), _flat(new))
    if different:
        raise DatasetError(
            f"{directory}: holds a dataset made otherwise: {told(different)}; "
            "choose another --out, or give the same list and settings to continue it"
        )


def _flat(description: DatasetDescription) -> dict[str, Any]:
    flat: dict[str, Any] = {f"image.{name}": value for name, value in description.image.items()}
    flat |= {f"reading.{name}": value for name, value in description.reading.items()}
    flat["chunk_rows"] = description.chunk_rows
    flat["parent"] = description.parent.model_dump() if description.parent else None
    flat["sources"] = [source.name for source in description.sources]
    flat |= {f"sha256 of {source.name}": source.sha256 for source in description.sources}
    return flat


@contextmanager
def exclusive_use(directory: Path, instead: str = "") -> Iterator[None]:
    """Hold a dataset's lock. Raises DatasetError if another process has it; or do what `instead` says."""
    if is_remote(directory):  # where nothing can be locked, it can only be asked for
        yield
        return
    try:
        with exclusive(directory / LOCK_FILE):
            yield
    except Held:
        raise DatasetError(f"{directory}: another process is writing it; wait for it{instead}") from None
