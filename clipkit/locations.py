"""Where datasets lie: folders of this machine, and addresses of object stores and web servers.

An address becomes a `RemotePath`, which does what a `Path` does here. Code takes either as a `Path`, and
asks `is_remote` where the two differ: behind an address are no renames, locks and descriptors.
"""

import errno
import importlib.util
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from clipkit.errors import ConfigError, install_extra
from clipkit.remote import MOST_BYTES, RefusedError
from clipkit.threads import mapped_in_threads, not_waited_for

if TYPE_CHECKING:
    from clipkit.remote_path import RemotePath

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "https": "aiohttp", "http": "aiohttp"}
"""The schemes known, and the package that each needs; what is not installed with clipkit is an extra."""
_ASKED_AT_ONCE = 16
_READ_AT_ONCE = 8
_VERSIONS = ("ETag", "etag", "LastModified", "Last-Modified")  # S3's and the web's, GCS's, those without
_HALVES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # of characters; the others stand for bytes of names

Thing = TypeVar("Thing")
Result = TypeVar("Result")


def location(text: str) -> Path:
    """Return the path or address that a user gave. Nothing is looked for yet.

    Raises ConfigError for an empty text, which would be the folder that the program is in, a command
    (`pipe:`), an address of an unknown kind, and a lacking extra.
    """
    if not text:
        raise ConfigError("expected a path or an address, found an empty one: is a variable not set?")
    if text.lower().startswith("pipe:"):
        raise ConfigError(f"{text}: expected a path or an address, found a command; those are never run")
    scheme = scheme_of(text)
    if scheme is None:
        return Path(text)
    if scheme == "file":
        return Path(text[len("file://") :])
    if scheme not in _EXTRAS:
        raise ConfigError(
            f"{text}: expected a path or an address of {', '.join(f'{name}://' for name in _EXTRAS)}, "
            f"found {scheme}://"
        )
    if importlib.util.find_spec(_EXTRAS[scheme]) is None:
        raise ConfigError(f"{text}: {scheme}:// needs a further package: {install_extra(scheme)}")
    from clipkit.remote_path import RemotePath

    _check_address(text, scheme)
    return cast("Path", RemotePath.parse(text))


def _check_address(text: str, scheme: str) -> None:
    place, _, inside = text.partition("://")[2].partition("/")
    try:
        port = urlsplit(text).port if scheme in ("http", "https") else None
    except ValueError as error:
        raise ConfigError(f"{text}: expected an address, found: {error}") from None
    if not place or port == 0:
        raise ConfigError(f"{text}: expected the name of a bucket or server behind {scheme}://, found none")
    if scheme in ("s3", "gs") and ("//" in inside.rstrip("/") or inside.startswith("/")):
        raise ConfigError(f"{text}: expected a name between any two slashes, found //")
    for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if scheme == "s3" else ():
        endpoint = os.environ.get(variable)
        if endpoint and not re.match(r"https?://[^/]", endpoint):
            raise ConfigError(f"{variable}: expected an address of https:// or http://, found {endpoint!r}")


def writable_location(text: str) -> Path:
    """Return the path or address of a folder to write into. Raises ConfigError as `location`."""
    if scheme_of(text) in ("http", "https"):
        raise ConfigError(f"{text}: cannot be written; give a folder of this machine, or s3:// or gs://")
    return location(text)


def local_path(text: str) -> Path:
    """Return the path of a file of this machine. Raises ConfigError for an address."""
    if scheme_of(text) not in (None, "file"):
        raise ConfigError(f"{text}: expected a file or folder of this machine, found an address")
    return location(text)


def scheme_of(text: str) -> str | None:
    """Return the scheme of an address in lower case, None for what is none."""
    found = _ADDRESS.match(text)
    return found[1].lower() if found else None


def is_remote(path: Path) -> bool:
    """Tell whether a path is an address."""
    return not isinstance(path, Path)


def can_list(path: Path) -> bool:
    """Tell whether a folder can be listed: web servers do not tell what they have."""
    return not is_remote(path) or _remote(path).can_list


@not_waited_for()
def infos(paths: Sequence[Path]) -> list[Mapping[str, Any] | None]:
    """Return what is known of files behind addresses: `size` in bytes, None where a server does not tell it,
    and what else it tells; None for a file that is not there.

    Folders of which many are asked for are listed instead. Raises RemoteError if one cannot be asked for.
    """
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    listed: dict[Path, Mapping[str, Any]] = {}
    for folder, inside in folders.items():
        if len(inside) > _ASKED_AT_ONCE and _remote(folder).can_list:
            listed |= _listed(folder)

    def asked(path: Path) -> Mapping[str, Any] | None:
        return listed.get(path) or _remote(path).info()

    return list(mapped_in_threads(asked, paths, _ASKED_AT_ONCE))


def each_of(
    function: Callable[[Thing], Result], things: Iterable[Thing], *, remote: bool
) -> Iterator[Result]:
    """Yield `function` of each thing in order; what is `remote` is waited for several at a time."""
    return mapped_in_threads(function, list(things), _READ_AT_ONCE) if remote else map(function, things)


def version_of(info: Mapping[str, Any]) -> str:
    """Return what tells a file from others that had its name, of what `infos` tells; "" if nothing does."""
    return str(next((info[name] for name in _VERSIONS if info.get(name)), ""))


def _listed(folder: Path) -> dict[Path, Mapping[str, Any]]:
    try:
        found = _remote(folder).entries()
    except (FileNotFoundError, RefusedError):  # who may read its files may yet not be let list them
        return {}
    return {folder / each["name"]: each for each in found if each["type"] == "file"}


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, if it is there."""
    if is_remote(path):
        _remote(path).remove_tree()
    else:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def downloaded(path: Path) -> Iterator[Path]:
    """Yield the file itself if it is on this machine, else a copy that is removed afterwards."""
    with _remote(path).copied() if is_remote(path) else nullcontext(path) as copy:
        yield copy


def download(source: Path, target: Path, at_most: int | None = None) -> None:
    """Copy the file behind an address to a path on this machine.

    Raises TooLargeError if it has more than `at_most` bytes, FileNotFoundError, RemoteError.
    """
    _remote(source).download(target, at_most)


def upload(source: Path, target: Path) -> None:
    """Copy a file of this machine to an address, where it appears whole or not at all."""
    _remote(target).upload(source)


def read_bytes(path: Path, at_most: int = MOST_BYTES) -> bytes:
    """Return a file's content, of this machine or behind an address. Raises OSError as `opened`.

    Behind an address TooLargeError is raised for one of more than `at_most` bytes.
    """
    if is_remote(path):
        return _remote(path).read_bytes(at_most)
    with os.fdopen(opened(path), "rb") as file:
        return file.read()


def decoded(name: str) -> str:
    """Return a file's name as it can be written down: what is no UTF-8 in it becomes U+FFFD.

    So do the other halves of characters that a stranger's JSON may spell. In which encoding the system has
    names does not matter: not all that can be written down is in it.
    """
    whole = _HALVES.sub("\N{REPLACEMENT CHARACTER}", name)
    return whole.encode(errors="surrogateescape").decode(errors="replace")


def opened(path: Path) -> int:
    """Return a descriptor of a regular file of this machine, or of one that a link leads to, to be read.

    Raises OSError as the file system does, and for what is none: a pipe would be waited for, a device such as
    /dev/zero read without end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "no regular file", str(path))


def read_range(path: Path, start: int, length: int) -> bytes:
    """Return a byte range of a file; fewer bytes where it ends."""
    if is_remote(path):
        return _remote(path).read_range(start, length)
    with os.fdopen(opened(path), "rb") as file:
        file.seek(start)
        return file.read(length)


def _remote(path: Path) -> "RemotePath":
    return cast("RemotePath", path)
