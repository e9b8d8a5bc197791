"""A path behind an address, with what is used here of a Path's interface. Each request is `tried`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self, TypeVar

from clipkit import scratch
from clipkit.answers import Copy, byte_range, copied
from clipkit.errors import StorageError
from clipkit.remote import (
    MOST_BYTES,
    NO_BUCKET,
    PATIENCE,
    RefusedError,
    RemoteError,
    TooLargeError,
    Transfer,
    tried,
)
from clipkit.stores import called, file_system
from clipkit.threads import not_waited_for

_LEAST_UPLOADED = 100_000  # bytes a second
_MUCH = 64_000_000  # bytes, worth to go on from
_WEB = ("http", "https")

Result = TypeVar("Result")


class Stat(NamedTuple):
    """What is known of a file: its size in bytes."""

    st_size: int


@dataclass(frozen=True, slots=True, order=True)
class RemotePath:
    """`scheme`://`inside`: a bucket or server, and the names below it. Picklable; nothing is open in it.

    Methods raise FileNotFoundError as those of a Path do, and RemoteError for what else goes wrong.
    """

    scheme: str
    inside: str

    @classmethod
    def parse(cls, address: str) -> Self:
        """Return the path of an address; slashes at its end do not count."""
        scheme, _, inside = address.partition("://")
        return cls(scheme.lower(), inside.rstrip("/"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.inside}"

    def __truediv__(self, name: object) -> Self:
        return type(self)(self.scheme, f"{self.inside}/{name}")

    @property
    def name(self) -> str:
        """The last name, of a bucket's or server's root too; without a query of the web, a signature say."""
        return self._names.rpartition("/")[2]

    @property
    def parts(self) -> tuple[str, ...]:
        """The scheme, the bucket or server, and the names below it; no password, nor whose it is."""
        place, *names = self._names.split("/")
        return (self.scheme, place.rpartition("@")[2] if self.scheme in _WEB else place, *names)

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The last ending of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Self:
        """The folder; of a bucket or server itself."""
        return type(self)(self.scheme, self._names.rpartition("/")[0] or self._names)

    @property
    def parents(self) -> tuple[Self, ...]:
        """The folders above, the nearest first, up to the bucket or server."""
        above = self.parent
        return () if above == self else (above, *above.parents)

    def with_name(self, name: str) -> Self:
        """Return the path of this name in the same folder."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> Self:
        """Return the path with another ending."""
        return self.with_name(self.stem + suffix)

    def relative_to(self, other: "RemotePath") -> PurePosixPath:
        """Return the names below the folder `other`."""
        return PurePosixPath(str(self)).relative_to(PurePosixPath(str(other)))

    def resolve(self) -> Self:
        """Return the path itself: there are no links."""
        return self

    def absolute(self) -> Self:
        """Return the path itself."""
        return self

    @property
    def can_list(self) -> bool:
        """Whether folders can be listed there: web servers do not tell what they have."""
        return self.scheme not in _WEB

    def info(self) -> Mapping[str, Any] | None:
        """Return what is known: `type`, `size` in bytes, None where it is not told; None if it is absent."""
        try:
            return dict(self._tried("read it", lambda each: self._call(each, "_info", seconds=PATIENCE)))
        except FileNotFoundError:
            return None

    def exists(self) -> bool:
        """Tell whether there is a file, or a folder with anything in it."""
        return self.info() is not None

    def is_file(self) -> bool:
        """Tell whether there is a file."""
        return (self.info() or {}).get("type") == "file"

    def is_dir(self) -> bool:
        """Tell whether there is a folder with anything in it; of a web server's that cannot be told."""
        return self.can_list and (self.info() or {}).get("type") == "directory"

    def stat(self) -> Stat:
        """Return the file's size."""
        info = self.info()
        if info is None:
            raise FileNotFoundError(f"{self}: no such file")
        return Stat(int(info["size"] or 0))

    def entries(self) -> list[Mapping[str, Any]]:
        """Return what is known of each file and folder in this folder, by `name`, its last name."""
        if not self.can_list:
            return []
        listed = self._tried("list it", lambda each: self._call(each, "_ls", detail=True))
        below = f"{self.inside}/"
        names = (str(each["name"]).rstrip("/").removeprefix(below) for each in listed)
        known = (dict(each) | {"name": name} for each, name in zip(listed, names, strict=True))
        return [each for each in known if each["name"] and "/" not in each["name"]]

    def iterdir(self) -> Iterator[Self]:
        """Yield what is in the folder."""
        for entry in self.entries():
            yield self / entry["name"]

    def glob(self, pattern: str) -> Iterator[Self]:
        """Yield what is in the folder and matches; only the pattern's last name may have *, ? and [."""
        folder, _, name = pattern.rpartition("/")
        if any(each in folder for each in "*?["):
            return
        place = self / folder if folder else self
        try:
            yield from (path for path in place.iterdir() if fnmatchcase(path.name, name))
        except FileNotFoundError:
            return

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            self._tried("remove it", lambda each: self._call(each, "_rm_file", seconds=PATIENCE))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Remove the folder with all that is in it, if it is there."""
        try:
            self._tried("remove it", lambda each: self._call(each, "_rm", recursive=True))
        except FileNotFoundError:
            return

    def read_bytes(self, at_most: int = MOST_BYTES) -> bytes:
        """Return the file's content. Raises as `copied`."""
        with self.copied(at_most) as path:
            return path.read_bytes()

    def read_range(self, start: int, length: int) -> bytes:
        """Return a byte range; fewer bytes where the file ends."""

        def action(transfer: Transfer) -> bytes:
            system = file_system(self.scheme)
            content = byte_range(system, self._place, start, length, transfer)
            return called(system, content, None, transfer)

        return self._tried("read it", action)

    @contextmanager
    def copied(self, at_most: int | None = None) -> Iterator[Path]:
        """Yield a copy of the file on this machine, which is removed afterwards.

        Raises TooLargeError beyond `at_most` bytes, StorageError if there is no place or room for it.
        """
        with ExitStack() as stack:
            try:
                with scratch.told_if_full(f"a copy of {self}"):
                    copy = stack.enter_context(scratch.folder()) / "content"
                    self.download(copy, at_most)
            except FileNotFoundError as error:
                if error.filename == str(self):
                    raise
                raise StorageError(  # it is the copy's folder that is gone, not the file
                    f"{error.filename}: expected a place for a copy of {self}, found no such folder; set "
                    "TMPDIR to one that stays"
                ) from None
            yield copy

    def download(self, target: Path, at_most: int | None = None) -> None:
        """Copy the file to a path of this machine. Raises TooLargeError beyond `at_most` bytes.

        What has come of a file with an ETag is not asked for again, however often a connection is lost, as
        long as more comes each time that it is tried for a while.
        """
        with target.open("wb") as file:
            copy = Copy(file)

            def action(transfer: Transfer) -> None:
                system = file_system(self.scheme)
                called(system, copied(system, self._place, copy, transfer), None, transfer)

            while True:
                had = file.tell()
                try:
                    return self._tried("read it", action, at_most)
                except (RefusedError, TooLargeError):
                    raise
                except RemoteError:
                    if file.tell() < had + _MUCH:
                        raise

    def upload(self, source: Path) -> None:
        """Copy a file of this machine there, where it appears whole or not at all."""
        seconds = PATIENCE + source.stat().st_size / _LEAST_UPLOADED
        self._tried("write it", lambda each: self._put(each, str(source), seconds))

    @not_waited_for()
    def _tried(self, doing: str, action: Callable[[Transfer], Result], at_most: int | None = None) -> Result:
        try:
            return tried(self, doing, action, at_most)
        except RefusedError as error:
            if getattr(file_system(self.scheme), "anon", False):
                raise RefusedError(f"{error}; no keys were found, so it was asked for without any") from error
            raise
        except FileNotFoundError:
            if self.scheme == "gs" and self._call(Transfer(self), "is_without_bucket"):
                found = "; ".join(NO_BUCKET)
                raise RemoteError(f"{self}: expected to {doing}, found: HTTP 404: {found}") from None
            raise

    def _put(self, transfer: Transfer, source: str, seconds: float) -> None:
        system = file_system(self.scheme)
        called(system, system._put_file(source, self._place), seconds, transfer)

    def _call(
        self, transfer: Transfer, name: str, *values: Any, seconds: float | None = None, **options: Any
    ) -> Any:
        system = file_system(self.scheme)
        return called(system, getattr(system, name)(self._place, *values, **options), seconds, transfer)

    @property
    def _names(self) -> str:
        return self.inside.partition("?")[0] if self.scheme in _WEB else self.inside

    @property
    def _place(self) -> str:
        return str(self) if self.scheme in _WEB else self.inside
