"""The libraries behind addresses, set up: one file system for each kind of address, none of which retries."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import fsspec

from clipkit.errors import ConfigError
from clipkit.locks import ThreadLock
from clipkit.remote import CONNECT_SECONDS, SILENT_SECONDS, TooLargeError, Transfer

ANONYMOUS_VARIABLE = "CLIPKIT_S3_ANONYMOUS"
_VARIABLES = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    ANONYMOUS_VARIABLE,
    "CLIPKIT_GS_ANONYMOUS",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "STORAGE_EMULATOR_HOST",
)

_LAST_SECONDS = 3.0  # for what is cancelled
_TOLD_EVERY = 1.0  # second
_MOST_TOLD = 1 << 24  # bytes: a page of 1,000 names is far below

Result = TypeVar("Result")
_made: dict[tuple[object, ...], Any] = {}
_making = ThreadLock()


def file_system(scheme: str) -> Any:
    """Return this process's file system for a scheme, as its environment now is.

    Raises what the libraries raise for an environment that cannot be.
    """
    key = (os.getpid(), scheme, *(os.environ.get(name) for name in _VARIABLES))
    with _making:
        if key not in _made:
            _made[key] = _new(scheme)
        return _made[key]


def called(
    system: Any, coroutine: Coroutine[Any, Any, Result], seconds: float | None, transfer: Transfer
) -> Result:
    """Return what a file system's coroutine returns; it is cancelled if this thread is interrupted.

    The transfer hears of the time meanwhile. Raises TimeoutError after so many seconds.
    """
    ended = threading.Event()

    async def answer() -> Result:
        try:
            return await asyncio.wait_for(coroutine, seconds)
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(answer(), system.loop)
    try:
        while not ended.wait(_TOLD_EVERY):
            transfer.now()
        return future.result()
    except BaseException:
        if future.cancel():  # it may have something to take back
            ended.wait(_LAST_SECONDS)
        raise


def _new(scheme: str) -> Any:
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        times = {"connect_timeout": CONNECT_SECONDS, "read_timeout": SILENT_SECONDS}
        retries = {"total_max_attempts": 1, "mode": "standard"}
        options["config_kwargs"] = times | {"retries": retries, "http_session_cls": _bounded_session()}
        options["anon"] = is_anonymous(ANONYMOUS_VARIABLE, _has_no_s3_keys)
    elif scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
        # What is packed on its way has another size than was told.
        options["client_kwargs"] = {"timeout": timeout, "headers": {"Accept-Encoding": "identity"}}
    elif scheme == "gs":
        from clipkit.gcs import GoogleBuckets

        return GoogleBuckets(**options)
    system = _buckets()(**options) if scheme == "s3" else fsspec.filesystem(scheme, **options)
    if scheme == "s3":
        system.retries = 1  # attempts, in s3fs's words
    return system


def _buckets() -> type[Any]:
    """Return s3fs's file system, but one that takes each name for the one it is, and that aborts an upload in
    parts also when it is cancelled.
    """
    from s3fs import S3FileSystem

    class Buckets(S3FileSystem):  # type: ignore[misc]
        async def _expand_path(self, path: str, **options: Any) -> list[str]:
            # For s3fs a name is a pattern: with *, ? or [ in a folder's, others would be removed with it.
            if not (found := list(await self._find(path, withdirs=True))):
                raise FileNotFoundError(path)
            return found

        async def _upload_file_part_concurrent(
            self, bucket: str, key: str, mpu: Any, *values: Any, **options: Any
        ) -> Any:
            try:
                return await super()._upload_file_part_concurrent(bucket, key, mpu, *values, **options)
            except asyncio.CancelledError:  # s3fs itself thinks of errors alone
                with suppress(Exception):
                    await asyncio.wait_for(self._abort_mpu(bucket, key, mpu["UploadId"]), _LAST_SECONDS)
                raise

    return Buckets


def _bounded_session() -> type[Any]:
    """Return aiobotocore's HTTP session, but one that reads at most so much of an answer into memory."""
    from aiobotocore.httpsession import AIOHTTPSession

    class Bounded(AIOHTTPSession):  # type: ignore[misc]
        async def send(self, request: Any) -> Any:
            is_file, request.stream_output = request.stream_output, True
            response = await super().send(request)
            if not is_file or response.status_code >= 300:
                response._content = await bounded(response.raw, request.url)
            return response

    return Bounded


async def bounded(response: Any, address: str) -> bytes:
    """Return the body of an answer that is read into memory. Raises TooLargeError."""
    content = bytearray()
    try:
        while piece := await response.content.read(1 << 16):
            content += piece
            if len(content) > _MOST_TOLD:
                raise TooLargeError(
                    f"{address}: expected at most {_MOST_TOLD:,} bytes of an answer, found more"
                )
    except BaseException:
        response.close()
        raise
    return bytes(content)


def is_anonymous(variable: str, default: Callable[[], bool]) -> bool:
    """Tell whether a variable says that no keys are to be used. Raises ConfigError for what it cannot say."""
    given = os.environ.get(variable, "")
    if given not in ("", "0", "1"):
        raise ConfigError(f"{variable}: expected 1 or 0, found {given!r}")
    return given == "1" if given else default()


def _has_no_s3_keys() -> bool:
    import botocore.session

    return botocore.session.get_session().get_credentials() is None
