"""The one place where what fails behind an address is tried again, and given up.

The libraries' own retries are switched off (see `stores`): they multiply with each other. What may pass, a
busy or silent or broken server, is tried again for PATIENCE seconds, and said meanwhile; what will not pass
(a refusal, a redirect, a name that nobody knows) is not. Everything ends in a RemoteError of one line.
"""

import errno
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from clipkit.clock import Clock
from clipkit.errors import ClipkitError, StorageError, one_line, tell

PATIENCE = 15.0
"""Seconds without a right answer, or without bytes, until an action is given up."""
CONNECT_SECONDS = 5.0
SILENT_SECONDS = 7.0
"""Seconds without a byte until a request is given up: twice that is within the patience."""
MOST_BYTES = 1 << 30
"""Of a file that is read whole into memory: an index of five million shards has less than half."""
NO_BUCKET = ("the bucket does not exist", "is its name right, and the endpoint?")
"""What is found then, and what to do."""
_COUNTED = SILENT_SECONDS + 1.0  # of an attempt's seconds: in the others bytes went, as far as is known
_REFUSED_PATIENCE = 5.0  # nobody listens there: the address is wrong, or a server starts anew
_PAUSES = (0.5, 1.0, 2.0, 4.0, 4.0)
_LEAST_PACE = 1_000  # bytes a second; slower is as good as silent
_SAID_EVERY = 5.0
_LONGEST = 300  # characters of what a server says
_NOT_THERE = (404, 410)
_MAY_PASS = (408, 425, 429)  # and all from 500 on
_MAY_PASS_CODES = {"RequestTimeout", "SlowDown", "Throttling", "BadDigest", "IncompleteBody"}
_TRANSIENT = (
    ("botocore.exceptions", "HTTPClientError"),
    ("botocore.exceptions", "ConnectionError"),
    ("botocore.exceptions", "IncompleteReadError"),
    ("botocore.exceptions", "FlexibleChecksumError"),
    ("botocore.parsers", "ResponseParserError"),
    ("aiohttp", "ClientConnectionError"),
    ("aiohttp", "ClientPayloadError"),
    ("google.auth.exceptions", "TransportError"),
)
_CERTIFICATES = (("aiohttp", "ClientSSLError"), ("botocore.exceptions", "SSLError"))
_ANSWERS = ((("aiohttp", "ClientResponseError"), "status"), (("gcsfs.retry", "HttpError"), "code"))
_REDIRECTS = (("aiohttp", "TooManyRedirects"),)
_LIBRARIES = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)

Result = TypeVar("Result")
_said = -math.inf


class RemoteError(StorageError):
    """A store or server that is not there, refuses, or fails again and again."""


class RefusedError(RemoteError):
    """A request that the keys given, or none, do not allow."""


class TooLargeError(RemoteError):
    """More bytes than were expected, or are taken."""


class Transfer:
    """What has come of a file: fsspec calls it as a callback. Bytes that flow renew the patience.

    While the process was stopped no time passes, as long as who waits asks for it every few seconds.
    """

    def __init__(self, place: object, at_most: int | None = None):
        self._place = place
        self._at_most = at_most
        self._count = self._before = self._promised = 0
        self._clock, self._reading = Clock(), threading.Lock()
        self._since = self.now()

    def now(self) -> float:
        """Return the time, for any thread."""
        with self._reading:
            return self._clock.now()

    def set_size(self, size: int | None, had: int = 0) -> None:
        """Begin an attempt at a file of so many bytes, as promised, of which some are `had` already."""
        self._count = self._before = had
        self._promised = size or 0
        self._check(self._promised)

    def relative_update(self, count: int = 1) -> None:
        """Count bytes that came. Raises TooLargeError beyond the limit, TimeoutError if too few come."""
        self._count += count
        self._check(self._count)
        now = self.now()
        seconds = now - self._since
        if seconds > PATIENCE:
            is_whole = 0 < self._promised <= self._count
            if self._count - self._before < _LEAST_PACE * seconds and not is_whole:
                raise TimeoutError(f"{self._count - self._before:,} bytes in {seconds:.0f} s")
            self._since, self._before = now, self._count

    def failed(self, error: Exception, start: float) -> float:
        """Return for how many seconds nothing was right, an attempt from `start` on having failed.

        Of a long one only the last count, unless they were too many: what was sent is not told to us.
        """
        now = self.now()
        if not isinstance(error, TimeoutError):
            self._since += max(0.0, now - max(start, self._since) - _COUNTED)
        return now - self._since

    def _check(self, count: int) -> None:
        if self._at_most is not None and count > self._at_most:
            raise TooLargeError(
                f"{self._place}: expected at most {self._at_most:,} bytes, found more; is it the right file?"
            )


class _Judgement(NamedTuple):
    """What an error says, how long it is worth trying again, what to do about it, and what it is."""

    found: str
    patience: float
    remedy: str
    kind: type[RemoteError] = RemoteError


def tried(
    place: object, doing: str, action: Callable[[Transfer], Result], at_most: int | None = None
) -> Result:
    """Return what the action returns; what may pass of its errors is waited for.

    `doing` says what for ("read it"); `at_most` limits the bytes of a transfer. Raises FileNotFoundError for
    what is not there, RemoteError for all else; an error of this machine's own files is raised as it is.
    """
    transfer = Transfer(place, at_most)
    begun = transfer.now()
    handled = sys.exception()
    for attempt, pause in enumerate((*_PAUSES, None), 1):
        start = transfer.now()
        try:
            return action(transfer)
        except ClipkitError:
            raise
        except Exception as error:
            _forget(error, handled)
            if _is_of_this_machine(error):
                raise
            if _is_absent(error):
                raise FileNotFoundError(errno.ENOENT, "no such file", str(place)) from error
            judged = _judged(error, doing)
            waited = transfer.failed(error, start)
            if pause is None or waited + pause > judged.patience:
                remedy = judged.remedy
                if judged.patience:
                    seconds = transfer.now() - begun
                    remedy = f"tried {attempt} times in {seconds:.0f} s: {judged.remedy}"
                raise judged.kind(
                    one_line(f"{place}: expected to {doing}, found: {judged.found}; {remedy}")
                ) from error
        _say(f"{place}: {judged.found}; trying again for up to {judged.patience - waited:.0f} s")
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _say(line: str) -> None:
    global _said
    if time.monotonic() - _said >= _SAID_EVERY:
        _said = time.monotonic()
        tell(f"clipkit: {line}")


def say_no_more() -> None:
    """What is tried again from now on is not said: the last line of a command is that of its error."""
    global _said
    _said = math.inf


def _judged(error: Exception, doing: str) -> _Judgement:
    status, code, words = _answer(error)
    if status is not None:
        return _judged_answer(status, code, words, doing)
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None  # see _is_absent
    found = _words(cause or error)
    chain = list(_chain(error))
    where = "is the address right, and the network up?"
    if any(isinstance(each, _kinds(_REDIRECTS)) for each in chain):
        return _Judgement("redirects without end", 0, "is the address right?")
    if any(isinstance(each, _kinds(_CERTIFICATES)) for each in chain):
        return _Judgement(found, 0, "the connection is not safe")
    if any(isinstance(each, socket.gaierror) and each.errno == socket.EAI_NONAME for each in chain):
        return _Judgement(found, 0, where)
    if any(isinstance(each, ConnectionRefusedError) for each in chain):
        return _Judgement(found, _REFUSED_PATIENCE, where)
    if any(isinstance(each, (TimeoutError, ConnectionError, *_kinds(_TRANSIENT))) for each in chain):
        return _Judgement(found, PATIENCE, f"run the same command again later, or {where}")
    return _Judgement(found, 0, "is the address right, and what the environment says of it?")


def _judged_answer(status: int, code: str, words: str, doing: str) -> _Judgement:
    found = f"HTTP {status}{f' ({words})' if words else ''}"
    if code == "NoSuchBucket":
        return _Judgement(f"{found}: {NO_BUCKET[0]}", 0, NO_BUCKET[1])
    if status >= 500 or status in _MAY_PASS or code in _MAY_PASS_CODES:
        return _Judgement(found, PATIENCE, "run the same command again later")
    if status in (401, 403):
        remedy = "are the right keys in the environment, and may they do it?"
        remedy += " What is not there may be told in the same way" * ("read" in doing)
        return _Judgement(found, 0, remedy, RefusedError)
    if 300 <= status < 400:
        return _Judgement(f"{found}: a redirect that leads nowhere", 0, "are endpoint and region right?")
    return _Judgement(found, 0, "is the address right?")


def _answer(error: BaseException) -> tuple[int | None, str, str]:
    """Return an answer's status, S3's code for it, and its words; None where none came."""
    for each in _chain(error):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            said = response.get("Error", {})
            code, words = str(said.get("Code", "")), str(said.get("Message", ""))
            if isinstance(status, int):
                code = "" if code == str(status) else code
                return status, code, ": ".join(filter(None, (code, _cut(words))))
        for kind, name in _ANSWERS:
            status = getattr(each, name) if isinstance(each, _kinds((kind,))) else 0
            if isinstance(status, int) and status:
                return status, "", _cut(str(getattr(each, "message", "")))
    return None, "", ""


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    words = _cut(str(error))
    is_told = isinstance(error, (OSError, *_kinds(_LIBRARIES))) and words
    return words if is_told else f"an answer that is not understood ({type(error).__name__}: {words})"


def _cut(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"


def _is_absent(error: Exception) -> bool:
    status, code, _ = _answer(error)
    if status is not None:
        return status in _NOT_THERE and code != "NoSuchBucket"
    # fsspec says so of a web server for any answer but a good one, and for none at all: that is its cause.
    return isinstance(error, FileNotFoundError) and error.__cause__ is None


def _is_of_this_machine(error: Exception) -> bool:
    if (
        not isinstance(error, OSError)
        or error.errno is None
        or isinstance(error, ConnectionError | TimeoutError)
    ):
        return False
    known: tuple[type[BaseException], ...] = (socket.gaierror, *_kinds(_LIBRARIES), *_kinds(_TRANSIENT))
    return not any(isinstance(each, known) for each in _chain(error))


def _forget(error: Exception, handled: BaseException | None) -> None:
    """Let an error not follow from the one `handled` when all began, by which it would be judged."""
    for each in _chain(error):
        if each.__context__ is handled:
            each.__context__ = None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _kinds(names: tuple[tuple[str, str], ...]) -> tuple[type[BaseException], ...]:
    """Return the exceptions of libraries, as far as these are loaded."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in names)
    return tuple(kind for kind in found if kind is not None)
