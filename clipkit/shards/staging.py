"""Several files of a dataset replaced as if at once: made beside it, then moved, which a kill only delays.

Behind an address nothing can be moved: there the files are made on this machine, uploaded to beside the
dataset, and then once more, each to its place.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from clipkit import scratch
from clipkit.atomic import flush, make_folder, write_json
from clipkit.digests import file_sha256
from clipkit.errors import DatasetError
from clipkit.json_values import parsed_json
from clipkit.locations import download, downloaded, each_of, is_remote, read_bytes, remove_tree, upload
from clipkit.remote import RemoteError
from clipkit.shards.dataset import DATASET_FILE
from clipkit.shards.failure_files import FAILURES
from clipkit.shards.half_repaired import READY, REPAIR
from clipkit.shards.index import INDEX_FILE
from clipkit.shards.whole import SIZES_FILE, check_openable

BROKEN = ".broken"
"""The ending of what was there of a description or a manifest: nothing else says what is to be seen in it."""
KEPT = f"{DATASET_FILE}{BROKEN}"

_GUARDS = (INDEX_FILE, DATASET_FILE)  # whoever else changes the dataset changes one of them
_WHOLE = (*_GUARDS, KEPT, SIZES_FILE)
_NUMBERED = re.compile(rf"({FAILURES}/)?\d{{6}}\.parquet|\d{{6}}\.parquet{re.escape(BROKEN)}")


class Staging:
    """A `folder` for the new files, named as they will be in the dataset; `commit` puts them in place.

    Until then the dataset is as it was. What a kill leaves is put in place, or away, by `finish_earlier`.
    The dataset must be locked, where it can be. Raises OSError as the file system does, RemoteError.
    """

    def __init__(self, directory: Path, folder: Path):
        self.folder = folder
        self._directory = directory
        self._beside = directory / REPAIR  # the folder itself, of a dataset on this machine
        self._is_remote = is_remote(directory)
        self._begun_with: dict[str, str] = {}

    @classmethod
    @contextmanager
    def of(cls, directory: Path) -> Iterator["Staging"]:
        """Yield that of a dataset."""
        with scratch.folder() if is_remote(directory) else nullcontext(directory / REPAIR) as folder:
            yield cls(directory, folder)

    def finish_earlier(self) -> bool:
        """Finish what an earlier commit did not, or remove what never came to one; tell which it was.

        What lies in a dataset that was downloaded may be anything: nothing is moved but files that a repair
        makes, to where they belong. Raises DatasetError where a folder's name leads elsewhere, OSError for
        an order that may not be opened.
        """
        for folder in () if self._is_remote else (self.folder, self._directory / FAILURES):
            if folder.is_symlink():
                raise DatasetError(
                    f"{folder}: expected a folder of the dataset, found a link to elsewhere: remove the link"
                )
        check_openable([self._beside / READY])
        try:
            order: Any = parsed_json(read_bytes(self._beside / READY))
            names = [str(name) for name in order["names"]]
            is_ours = all(name in _WHOLE or _NUMBERED.fullmatch(name) for name in names)
            is_ours &= all(found in order["guards"][name] for name, found in self._guards().items())
        except (OSError, ValueError, KeyError, TypeError):
            is_ours = False
        if is_ours:
            self._each(self._fetch, names if self._is_remote else [])
            self._each(self._move, names)
        self.discard()
        return is_ours

    def begin(self) -> None:
        """Make the folder, before the dataset is read."""
        make_folder(self.folder)
        self._begun_with = self._guards()

    def keep(self, name: str) -> str:
        """Have a file that is to be replaced kept with BROKEN behind its name; one kept before stays.

        Return what to say of that, nothing if it is not there.
        """
        kept = name + BROKEN
        if not (self._directory / name).is_file():
            return ""
        if not (self._directory / kept).exists():
            with downloaded(self._directory / name) as copy:
                shutil.copyfile(copy, self.folder / kept)
            flush(self.folder / kept)
        return f"; what was there is kept as {kept}"

    def keep_no_manifests(self) -> None:
        """Have no manifests kept after all."""
        for path in self.folder.glob(f"*.parquet{BROKEN}"):
            path.unlink()

    def commit(self) -> None:
        """Replace the dataset's files by those in the folder; once begun, it is finished some day.

        Until `discard`, `finish_earlier` tells that there was a commit. Raises DatasetError if another
        process, which no lock behind an address keeps out, has changed the dataset since `begin`.
        """
        paths = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        names = [path.relative_to(self.folder).as_posix() for path in paths]
        try:
            self._each(self._put_beside, names if self._is_remote else [])
            found = self._guards()  # after that: it may take long
            if found != self._begun_with:
                raise DatasetError(
                    f"{self._directory}: expected a dataset that stays, found that another process changed "
                    "it meanwhile; when that is done, repair it again"
                )
            guards = {name: [found[name], _sha256(self.folder / name)] for name in _GUARDS}
            write_json(self._beside / READY, {"names": names, "guards": guards})
        except BaseException:
            with suppress(RemoteError):
                self.discard()
            raise
        self._each(self._move, names)

    def discard(self) -> None:
        """Remove the folder, and what lies beside the dataset."""
        if self._beside.exists():
            (self._beside / READY).unlink(missing_ok=True)  # first: without it nothing is moved
            remove = remove_tree if self._is_remote else shutil.rmtree
            remove(self._beside)  # not quietly: what stays is moved by the next
        self.abandon()

    def abandon(self) -> None:
        """Remove the folder before it is committed: beside a dataset behind an address nothing lies yet."""
        remove_tree(self.folder)

    def _each(self, act: Callable[[str], None], names: Sequence[str]) -> None:
        for _ in each_of(act, names, remote=self._is_remote):
            pass

    def _fetch(self, name: str) -> None:
        make_folder((self.folder / name).parent)
        with suppress(FileNotFoundError):  # as a stranger's order may have it
            download(self._beside / name, self.folder / name)

    def _put_beside(self, name: str) -> None:
        upload(self.folder / name, self._beside / name)

    def _move(self, name: str) -> None:
        source, target = self.folder / name, self._directory / name
        if not source.exists():
            return
        if self._is_remote:
            try:
                upload(source, target)
            except RemoteError as error:
                raise type(error)(
                    f"{error}; the repair is half done, and the same command finishes it"
                ) from error
            return
        make_folder(target.parent)
        source.replace(target)
        flush(target.parent)

    def _guards(self) -> dict[str, str]:
        return {name: _sha256(self._directory / name) for name in _GUARDS}


def _sha256(path: Path) -> str:
    if not is_remote(path) and not path.is_file():  # a pipe, say, would be waited for
        return ""
    try:
        with downloaded(path) as copy:
            return file_sha256(copy)
    except FileNotFoundError:
        return ""
