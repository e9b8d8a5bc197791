"""Several files of a dataset replaced as if at once: made beside it, then moved, which a kill only delays."""

import re
import shutil
from pathlib import Path
from typing import Any

from clipkit.atomic import flush, make_folder, write_json
from clipkit.digests import file_sha256
from clipkit.errors import DatasetError
from clipkit.json_values import parsed_json
from clipkit.locations import read_bytes
from clipkit.shards.dataset import DATASET_FILE
from clipkit.shards.failure_files import FAILURES
from clipkit.shards.index import INDEX_FILE
from clipkit.shards.whole import REPAIR, SIZES_FILE

_READY = "ready.json"
BROKEN = ".broken"
"""The ending of what was there of a description or a manifest: nothing else says what is to be seen in it."""
KEPT = f"{DATASET_FILE}{BROKEN}"

_GUARDS = (INDEX_FILE, DATASET_FILE)  # whoever else changes the dataset changes one of them
_WHOLE = (*_GUARDS, KEPT, SIZES_FILE)
_NUMBERED = re.compile(rf"({FAILURES}/)?\d{{6}}\.parquet|\d{{6}}\.parquet{re.escape(BROKEN)}")


class Staging:
    """A folder for the new files, named as they will be in the dataset; `commit` puts them in place.

    Until then the dataset is as it was. What a kill leaves is put in place, or away, by `finish_earlier`.
    The dataset must be locked. Raises OSError as the file system does.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        self.folder = directory / REPAIR

    def finish_earlier(self) -> bool:
        """Finish what an earlier commit did not, or remove what never came to one; tell which it was.

        What lies in a dataset that was downloaded may be anything: nothing is moved but files that a repair
        makes, to where they belong. Raises DatasetError where a folder's name leads elsewhere.
        """
        for folder in (self.folder, self._directory / FAILURES):
            if folder.is_symlink():
                raise DatasetError(
                    f"{folder}: expected a folder of the dataset, found a link to elsewhere: remove the link"
                )
        try:
            order: Any = parsed_json(read_bytes(self.folder / _READY))
            names = [str(name) for name in order["names"]]
            is_ours = all(name in _WHOLE or _NUMBERED.fullmatch(name) for name in names)
            is_ours &= all(_sha256(self._directory / name) in order["guards"][name] for name in _GUARDS)
        except (OSError, ValueError, KeyError, TypeError):
            is_ours = False
        if is_ours:
            self._move(names)
        self.discard()
        return is_ours

    def begin(self) -> None:
        """Make the folder."""
        make_folder(self.folder)

    def keep(self, name: str) -> str:
        """Have a file that is to be replaced kept with BROKEN behind its name; one kept before stays.

        Return what to say of that, nothing if it is not there.
        """
        kept = name + BROKEN
        if not (self._directory / name).is_file():
            return ""
        if not (self._directory / kept).exists():
            shutil.copyfile(self._directory / name, self.folder / kept)
            flush(self.folder / kept)
        return f"; what was there is kept as {kept}"

    def keep_no_manifests(self) -> None:
        """Have no manifests kept after all."""
        for path in self.folder.glob(f"*.parquet{BROKEN}"):
            path.unlink()

    def commit(self) -> None:
        """Replace the dataset's files by those in the folder; once begun, it is finished some day.

        Until `discard`, `finish_earlier` tells that there was a commit.
        """
        paths = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        names = [path.relative_to(self.folder).as_posix() for path in paths]
        guards = {name: [_sha256(self._directory / name), _sha256(self.folder / name)] for name in _GUARDS}
        write_json(self.folder / _READY, {"names": names, "guards": guards})
        self._move(names)

    def discard(self) -> None:
        """Remove the folder."""
        if self.folder.exists():
            (self.folder / _READY).unlink(missing_ok=True)  # the first to go: without it, nothing is moved
            shutil.rmtree(self.folder)

    def _move(self, names: list[str]) -> None:
        for name in names:
            source, target = self.folder / name, self._directory / name
            if source.exists():
                make_folder(target.parent)
                source.replace(target)
                flush(target.parent)


def _sha256(path: Path) -> str:
    return file_sha256(path) if path.is_file() else ""
