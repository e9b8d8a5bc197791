"""Files of anywhere as the pictures of a set."""

from collections.abc import Sequence
from pathlib import Path

from clipkit.evaluate.pictures import FolderPictures


def listed(files: Sequence[Path]) -> FolderPictures:
    """The files in this order, under their whole paths as names."""
    return FolderPictures(Path("/"), [str(file) for file in files])
