"""Google's buckets, through gcsfs's JSON interface: it tries nothing again, and its answers are bounded.

Of gcsfs's two classes the smaller one is used: the other asks by gRPC, past what the environment says of an
endpoint, what kind of bucket there is, with retries of its own.
"""

import asyncio
import io
import os
from contextlib import suppress
from typing import Any

import aiohttp
from gcsfs.core import GCSFileSystem

from clipkit.json_values import parsed_json
from clipkit.remote import CONNECT_SECONDS, PATIENCE, SILENT_SECONDS
from clipkit.stores import bounded, is_anonymous

ANONYMOUS_VARIABLE = "CLIPKIT_GS_ANONYMOUS"
ENDPOINT_VARIABLE = "STORAGE_EMULATOR_HOST"
_REMOVED_AT_ONCE = 16


class GoogleBuckets(GCSFileSystem):  # type: ignore[misc]
    """gcsfs's file system; `anon` tells that no keys were found, or none are to be used."""

    _request = GCSFileSystem._request.__wrapped__

    def __init__(self, **options: Any):
        # An emulator is sent no keys, as Google's own libraries do it.
        default = os.environ.get(ENDPOINT_VARIABLE, "") not in ("", "default")
        token = "anon" if is_anonymous(ANONYMOUS_VARIABLE, lambda: default) else None
        timeout = aiohttp.ClientTimeout(None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
        session = {"raise_for_status": _judge, "response_class": _Bounded, "timeout": timeout}
        super().__init__(token=token, requests_timeout=timeout, session_kwargs=session, **options)
        self.anon = self.credentials.credentials is None
        self._buckets: set[str] = set()

    async def is_without_bucket(self, path: str) -> bool:
        """Tell whether a path's bucket is known not to exist: an object's absence is told in the same way."""
        bucket = path.partition("/")[0]
        if bucket in self._buckets:
            return False
        try:
            async with asyncio.timeout(PATIENCE):
                await self._call("GET", "b/{}/o", bucket, maxResults=1, json_out=True)
        except FileNotFoundError:
            return True
        except (aiohttp.ClientError, TimeoutError):  # who may read its objects may yet not be let list them
            return False
        self._buckets.add(bucket)
        return False

    async def set_session(self) -> Any:
        """Return the session, as the file system of web servers does."""
        return await self._set_session()

    def encode_url(self, path: str) -> str:
        """Return the address of an object's content."""
        return str(self.url(path))

    def with_keys(self, headers: dict[str, str]) -> dict[str, str]:
        """Return a request's headers with what the keys add."""
        return dict(self._get_headers(headers))

    async def _call(self, method: str, path: str, *values: Any, **options: Any) -> Any:
        if isinstance(data := options.get("data"), bytes):
            options["data"] = io.BytesIO(data)  # sent in pieces: others' requests go on meanwhile
        if method != "DELETE" or "upload_id=" not in path:
            return await super()._call(method, path, *values, **options)
        # An upload that failed is given up: that it is gone may fail too, and is not what went wrong.
        with suppress(aiohttp.ClientError, TimeoutError):
            return await super()._call(method, path, *values, **options)
        return None

    async def _put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        # An answer that tells no size, or another, is of an upload that has not ended.
        await super()._put_file(lpath, rpath, **{"consistency": "size"} | options)

    async def _rm(self, path: str, recursive: bool = False, **options: Any) -> None:
        """Remove objects each by its own request: gcsfs's batches have retries of their own."""
        names = list(await self._find(path)) if recursive else [path]
        for start in range(0, len(names), _REMOVED_AT_ONCE):
            await asyncio.gather(*map(self._rm_if_there, names[start : start + _REMOVED_AT_ONCE]))

    async def _rm_if_there(self, name: str) -> None:
        try:
            await self._rm_file(name)
        except FileNotFoundError:
            return


class _Bounded(aiohttp.ClientResponse):
    async def read(self) -> bytes:
        return await bounded(self, str(self.url))


async def _judge(response: aiohttp.ClientResponse) -> None:
    """Raise aiohttp's error for an answer that is none, with its status, which gcsfs's errors lack."""
    status = response.status
    if status < 400 or status == 499:  # so the end of an upload that is given up is confirmed
        return
    content = await response.read()
    if status in (404, 410) and "upload_id" in response.url.query:
        raise aiohttp.ClientPayloadError(f"HTTP {status}: the store has lost the upload")
    if status != 404:  # gcsfs itself looks for that one
        raise aiohttp.ClientResponseError(
            response.request_info, response.history, status=status, message=_message(content, response.reason)
        )


def _message(content: bytes, reason: str | None) -> str:
    """Return what an answer says in words, in Google's form or any other."""
    try:
        return str(parsed_json(content)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return content.decode(errors="replace") or reason or ""
