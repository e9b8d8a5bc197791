"""Where datasets lie: folders of this machine, and addresses of object stores and web servers.

An address becomes a `UPath`, which does what a `Path` does here, through fsspec. Code takes either as a
`Path`, and asks `is_remote` where the two differ: behind an address are no renames, locks and descriptors.
"""

import errno
import importlib.util
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from clipkit.errors import ConfigError, StorageError

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "https": "aiohttp", "http": "aiohttp"}
"""The schemes known, and the package that each needs; what is not installed with clipkit is an extra."""
_CONNECT_SECONDS = 15.0
_SILENT_SECONDS = 60.0  # without a byte, until a request is given up and tried again
_ATTEMPTS = 5
_ASKED_AT_ONCE = 16
_NOT_THERE = (404, 410)
_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("fsspec.exceptions", "FSTimeoutError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)
_WITHOUT_NUMBER = (FileNotFoundError, PermissionError, TimeoutError)
_PAUSES = (0.5, 1.0, 2.0)

Result = TypeVar("Result")


def location(text: str) -> Path:
    """Return the path or address that a user gave. Nothing is looked for yet.

    Raises ConfigError for a command (`pipe:`), an address of an unknown kind, and a lacking extra.
    """
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
        raise ConfigError(f"{text}: {scheme}:// needs a further package: pip install 'clipkit[{scheme}]'")
    from upath import UPath

    text = scheme + text[len(scheme) :]
    _check_address(text, scheme)
    return cast("Path", UPath(text, **_options(scheme)))


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


def scheme_of(text: str) -> str | None:
    """Return the scheme of an address in lower case, None for what is none."""
    found = _ADDRESS.match(text)
    return found[1].lower() if found else None


def is_remote(path: Path) -> bool:
    """Tell whether a path is an address."""
    return not isinstance(path, Path)


def can_list(path: Path) -> bool:
    """Tell whether the folder behind an address can be listed: web servers do not tell what they have."""
    return cast("Any", path).protocol not in ("http", "https")


def infos(paths: Sequence[Path]) -> list[Mapping[str, Any] | None]:
    """Return what is known of files behind addresses: `size` in bytes, None where a server does not tell it,
    and what else it tells; None for a file that is not there.

    Folders of which many are asked for are listed instead. Raises the libraries' errors if one cannot be
    asked for.
    """
    folders: dict[str, list[Path]] = {}
    for path in paths:
        folders.setdefault(str(path.parent), []).append(path)
    listed: dict[str, Mapping[str, Any]] = {}
    for inside in folders.values():
        if len(inside) > _ASKED_AT_ONCE and can_list(inside[0]):
            listed |= _listed(inside[0].parent)

    def asked(path: Path) -> Mapping[str, Any] | None:
        return listed.get(cast("Any", path).path) or patiently(lambda: _info(path))

    with ThreadPoolExecutor(_ASKED_AT_ONCE) as threads:
        return list(threads.map(asked, paths))


def _listed(folder: Path) -> dict[str, Mapping[str, Any]]:
    try:
        found = patiently(lambda: cast("Any", folder).fs.ls(cast("Any", folder).path, detail=True))
    except (FileNotFoundError, PermissionError):  # who may read its files may yet not be let list them
        return {}
    return {each["name"]: each for each in found if each["type"] == "file"}


def _info(path: Path) -> Mapping[str, Any] | None:
    try:
        return cast("Mapping[str, Any]", cast("Any", path).fs.info(cast("Any", path).path))
    except FileNotFoundError as error:
        # For a web server's any answer but a good one, and for none at all, fsspec says "not found".
        why = None if can_list(path) else error.__cause__
        if why is not None and getattr(why, "status", None) not in _NOT_THERE:
            raise why from None
        return None


def is_remote_error(error: BaseException) -> bool:
    """Tell whether an error is one by which the libraries behind addresses say that something failed there.

    Most of theirs are OSErrors; these are the others.
    """
    loaded = [getattr(sys.modules.get(module), name, None) for module, name in _ERRORS]
    kinds = tuple(kind for kind in loaded if kind)
    if isinstance(error, _WITHOUT_NUMBER) and error.errno is None:  # a system's own error has one
        return True
    return isinstance(error, kinds) or (isinstance(error, OSError) and isinstance(error.__cause__, kinds))


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, if it is there."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        cast("Any", path).fs.rm(cast("Any", path).path, recursive=True)


@contextmanager
def downloaded(path: Path) -> Iterator[Path]:
    """Yield the file itself if it is on this machine, else a copy that is removed afterwards."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="clipkit-") as folder:
        copy = Path(folder) / path.name
        download(path, copy)
        yield copy


def download(source: Path, target: Path) -> None:
    """Copy the file behind an address to a path on this machine."""
    patiently(lambda: cast("Any", source).fs.get_file(cast("Any", source).path, str(target)))


def upload(source: Path, target: Path) -> None:
    """Copy a file of this machine to an address, where it appears whole or not at all.

    Raises StorageError if that is refused, or fails again and again.
    """
    try:
        patiently(lambda: cast("Any", target).fs.put_file(str(source), cast("Any", target).path))
    except Exception as error:
        if not (isinstance(error, OSError) or is_remote_error(error)):
            raise
        found = str(error).partition("\n")[0] or type(error).__name__
        raise StorageError(
            f"{target}: expected to write it, found: {found}; "
            "what is there already is kept: mend this and run the same command again"
        ) from error


def read_bytes(path: Path) -> bytes:
    """Return a small file's content, of this machine or behind an address. Raises OSError as `opened`."""
    if is_remote(path):
        return patiently(path.read_bytes)
    with os.fdopen(opened(path), "rb") as file:
        return file.read()


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


def patiently(action: Callable[[], Result]) -> Result:
    """Return the action's result; what may pass of an object store's errors is waited for some seconds."""
    for pause in _PAUSES:
        try:
            return action()
        except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError):
            raise
        except Exception as error:
            if not (isinstance(error, OSError) or is_remote_error(error)) or error_is_of_disk(error):
                raise
        time.sleep(pause)
    return action()


def error_is_of_disk(error: BaseException) -> bool:
    """Tell whether an error is that this machine's disk is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _options(scheme: str) -> Mapping[str, Any]:
    if scheme == "s3":
        retries = {"max_attempts": _ATTEMPTS, "mode": "standard"}
        times = {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _SILENT_SECONDS}
        return {"use_listings_cache": False, "config_kwargs": times | {"retries": retries}}
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS)
        return {"use_listings_cache": False, "client_kwargs": {"timeout": timeout}}
    return {"use_listings_cache": False}
