"""A dataset some of whose files a repair has replaced and some not: what tells of it."""

from pathlib import Path

from clipkit.errors import DatasetError

REPAIR = ".repair"
"""The folder of a repair under way."""
READY = "ready.json"
"""What lies in it from when the dataset's files are begun to be replaced until they all are."""


def check_not_half_repaired(directory: Path) -> None:
    """Raise DatasetError for a dataset whose repair was interrupted: built upon, it could not be finished."""
    if (directory / REPAIR / READY).exists():
        raise DatasetError(
            f"{directory}: expected a whole dataset, found a repair of it that was interrupted; "
            "finish it first with `clipkit shards verify --repair`"
        )
