"""Files of the web whose sha256 is known: fetched once, resumed, checked, there whole or not at all."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import requests
import urllib3

from clipkit import _version
from clipkit.atomic import flush, make_folder, named
from clipkit.digests import file_sha256
from clipkit.errors import DownloadError, tell
from clipkit.locks import Held, ThreadLock, exclusive
from clipkit.progress import Progress

_PIECE = 1 << 20
_MEGABYTE = 10**6
_REDIRECTS = (301, 302, 303, 307, 308)
_MAY_PASS = (408, 425, 429, 500, 502, 503, 504)
_THREADS = ThreadLock()  # file locks are a process's: they do not part its threads


@dataclass(frozen=True)
class Wanted:
    """A file of the web: where it is, what its bytes are, and how many there may be at the most."""

    url: str
    sha256: str
    largest: int


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for (seconds), and how often it is asked again.

    A try fails when fewer than `slow_rate` bytes a second have come for `slow` seconds. The tries are those
    in a row that bring less than a megabyte; each waits twice as long as the one before.
    """

    connect: float = 20.0
    silent: float = 30.0
    slow: float = 60.0
    slow_rate: float = 1_000.0
    tries: int = 3
    pause: float = 1.0
    redirects: int = 5


PATIENCE = Patience()


def download(wanted: Wanted, path: Path, patience: Patience = PATIENCE) -> Path:
    """Return `path` with the wanted bytes in it, which are fetched unless they are there already.

    Other bytes in it are replaced, with a word. Of several processes and threads one fetches, the others
    wait. What an interrupted call has fetched lies beside it, and the next one goes on from there. Raises
    DownloadError, with what to do by hand, for what cannot be fetched; OSError as the file system does.
    """
    if _is_right(path, wanted):
        return path
    make_folder(path.parent)
    with named(path), _alone(path):
        if not _is_right(path, wanted):
            _fetch(wanted, path, patience)
    return path


def _is_right(path: Path, wanted: Wanted) -> bool:
    if path.exists() and not path.is_file():
        raise DownloadError(f"{path} is to be a file, and something else is there: move it away")
    return path.is_file() and file_sha256(path) == wanted.sha256


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = path.with_name(f".{path.name}.lock")
    with ExitStack() as held:
        held.enter_context(_THREADS)
        try:
            held.enter_context(exclusive(lock))
        except Held:
            tell(f"{path}: waiting for another process that fetches it")
            held.enter_context(exclusive(lock, wait=True))
        yield


def _fetch(wanted: Wanted, path: Path, patience: Patience) -> None:
    partial = path.with_name(f".{path.name}.{wanted.sha256[:16]}.tmp")
    with Progress(f"download {path.name}", None, "MB") as progress, requests.Session() as session:
        session.auth = lambda request: request  # none: not what a .netrc says either
        if path.exists():
            progress.say(f"{path} has other bytes than it should: it is fetched anew")
        found = resumed = file_sha256(partial) if partial.exists() else ""
        if found != wanted.sha256:
            _Transfer(session, wanted, path, partial, patience, progress).run()
            found = file_sha256(partial)
        if resumed and found != wanted.sha256:
            progress.say(f"{path.name}: what an earlier try has left is not of this file: it is fetched anew")
            partial.unlink()
            _Transfer(session, wanted, path, partial, patience, progress).run()
            found = file_sha256(partial)
    if found != wanted.sha256:
        partial.unlink()
        raise _failure(
            wanted, path, f"its sha256 is {found}, expected {wanted.sha256}; nothing of it is kept"
        )
    flush(partial)
    partial.replace(path)
    flush(path.parent)


class _Again(Exception):  # noqa: N818 (a try's outcome, which may be another's next time)
    """A try has failed for a reason that may pass."""


class _Transfer:
    """The tries to fetch one file, each of which goes on where the one before ended."""

    def __init__(
        self,
        session: requests.Session,
        wanted: Wanted,
        path: Path,
        partial: Path,
        patience: Patience,
        progress: Progress,
    ):
        self._session = session
        self._wanted = wanted
        self._path = path
        self._partial = partial
        self._patience = patience
        self._progress = progress
        self._version: str | None = None  # the server's mark of the bytes that we have a part of

    def run(self) -> None:
        tries, furthest = 0, _size(self._partial)
        while True:
            try:
                self._try()
                return
            except _Again as problem:
                now, tries = _size(self._partial), tries + 1
                if now > furthest + _MEGABYTE:  # than ever, not than after a relapse
                    tries, furthest = 1, now
                if tries >= self._patience.tries:
                    raise _failure(self._wanted, self._path, str(problem)) from problem
                self._progress.update(_size(self._partial) // _MEGABYTE, f"{problem}: trying again")
                time.sleep(self._patience.pause * 2 ** (tries - 1))

    def _try(self) -> None:
        begun = _size(self._partial)
        headers = {"User-Agent": f"clipkit/{_version.VERSION}", "Accept-Encoding": "identity"}
        if begun:
            headers["Range"] = f"bytes={begun}-"
        if begun and self._version:
            headers["If-Range"] = self._version
        with self._answer(headers) as response:
            self._check_status(response)
            total = self._total(response, begun)
            mark = response.headers.get("ETag", "")
            if total is not None:
                self._progress.expect(-(-total // _MEGABYTE))
            self._version = mark if mark.startswith('"') else None  # a weak one says nothing of bytes
            with self._partial.open("ab" if response.status_code == 206 else "wb") as out:
                for piece in self._pieces(response):
                    out.write(piece)
                    if out.tell() > (self._wanted.largest if total is None else total):
                        self._partial.unlink()
                        sizes = f"{total or self._wanted.largest:,} bytes"
                        raise self._permanent(f"it sent more than the {sizes} that there should be")
                    self._progress.update(out.tell() // _MEGABYTE)
        if total is not None and _size(self._partial) != total:
            raise _Again(f"it ended after {_size(self._partial):,} of {total:,} bytes")

    def _answer(self, headers: dict[str, str]) -> requests.Response:
        url, patience = self._wanted.url, self._patience
        for _ in range(patience.redirects + 1):
            try:
                response = self._session.get(
                    url,
                    headers=headers,
                    stream=True,
                    allow_redirects=False,
                    timeout=(patience.connect, patience.silent),
                )
            except requests.exceptions.SSLError as error:
                raise self._permanent(_reason(error)) from error
            except requests.RequestException as error:
                raise _Again(_reason(error)) from error
            if response.status_code not in _REDIRECTS:
                return response
            response.close()
            url = urljoin(url, response.headers.get("Location", ""))
            if not url.startswith("https://"):
                raise self._permanent(f"it redirects to {url[:200]}, and only https is followed")
        raise self._permanent(f"it redirects more than {patience.redirects} times")

    def _check_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status == 416:
            self._partial.unlink(missing_ok=True)
            raise _Again("it has no more bytes than we have of another file")
        if status in _MAY_PASS:
            raise _Again(f"HTTP {status}")
        if status not in (200, 206):
            raise self._permanent(f"HTTP {status}")
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise self._permanent(f"it sends the bytes encoded as {encoding[:40]}, which was not asked for")

    def _total(self, response: requests.Response, begun: int) -> int | None:
        """How many bytes the whole file has, if the answer says it; checked."""
        if response.status_code == 206:
            part, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            other = self._version and response.headers.get("ETag", self._version) != self._version
            if other or part.partition("-")[0] != str(begun) or not _is_number(whole):
                self._partial.unlink(missing_ok=True)
                raise _Again("it sends another part than was asked for")
        else:
            whole = response.headers.get("Content-Length", "")
        total = int(whole) if _is_number(whole) else None
        if total is not None and total > self._wanted.largest:
            raise self._permanent(
                f"it has {total:,} bytes, and at most {self._wanted.largest:,} are expected"
            )
        return total

    def _pieces(self, response: requests.Response) -> Iterator[bytes]:
        """The body as it comes, whatever its pace, until that has been too slow for too long."""
        patience = self._patience
        since, come = time.monotonic(), 0
        while True:
            try:
                piece: bytes = response.raw.read1(_PIECE, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise _Again(_reason(error)) from error
            if not piece:
                return
            yield piece
            come += len(piece)
            if (seconds := time.monotonic() - since) > patience.slow:
                if come < patience.slow_rate * seconds:
                    raise _Again(f"{come:,} bytes came in {seconds:.0f} s")
                since, come = time.monotonic(), 0

    def _permanent(self, reason: str) -> DownloadError:
        return _failure(self._wanted, self._path, reason)


def _failure(wanted: Wanted, path: Path, reason: str) -> DownloadError:
    by_hand = f"fetch it in another way, where there is a network, and put it at {path}"
    return DownloadError(f"{wanted.url} could not be fetched ({reason}): {by_hand}")


def _reason(error: BaseException) -> str:
    # The texts of these libraries show objects and addresses in memory; what the system said lies innermost.
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
        return "no answer in time"
    inner: BaseException = error
    while (deeper := inner.__cause__ or inner.__context__) is not None:
        inner = deeper
    said = inner.strerror if isinstance(inner, OSError) and inner.strerror else type(inner).__name__
    return " ".join(said.split())[:200]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
