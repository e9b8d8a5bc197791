"""The settings of one ingest, validated once."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from clipkit._version import VERSION
from clipkit.cpus import MOST_WORKERS, available_cpus
from clipkit.pictures import MAX_PIXELS

MAX_DECODED_PIXELS = 89_000_000  # above this Pillow itself warns of a decompression bomb

_LABEL = "[A-Za-z0-9_-]{1,63}"
_PROXY = re.compile(
    rf"(https?|socks4a?|socks5h?)://([!-~]+@)?({_LABEL}(\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]+\]):[0-9]{{1,5}}/?"
)
_CONTACT = re.compile(r"[\x20-\x7e]{1,200}")


def _proxy(value: str) -> str:
    try:
        if _PROXY.fullmatch(value) and urlsplit(value).port:
            return value
    except ValueError:  # a port above 65,535, or what is no address of IPv6
        pass
    raise ValueError(f"expected http://HOST:PORT or socks5h://HOST:PORT, found {value!r}")


def _contact(value: str) -> str:
    if not _CONTACT.fullmatch(value):
        raise ValueError(f"expected 1 to 200 characters of ASCII, found {value[:200]!r}")
    return value


class IngestConfig(BaseModel):
    """How to fetch pictures and what to make of them.

    `image_size` is the short side in pixels of larger pictures, `quality` that of the JPEG made;
    `connections` are per worker process, beside those that wait for an answer for more than a second,
    `per_host` for all of them together; `timeout` (seconds) bounds a connect and a stall, `deadline`
    (seconds) one URL over all its attempts and waits, `backoff` is the wait in seconds before the first
    retry, doubled for each further one. `min_size` (pixels of the short side) and `max_aspect` (long side /
    short side) say which pictures are wanted, `keep_original` that their bytes stay as served. With a
    `proxy`, which addresses are connected to is up to it; with `ignore_robots_tag` an X-Robots-Tag opts
    nobody out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    image_size: int = Field(256, ge=1, le=8192)
    quality: int = Field(95, ge=1, le=100)
    workers: int = Field(default_factory=available_cpus, ge=1, le=MOST_WORKERS)
    connections: int = Field(64, ge=1, le=4096)
    per_host: int = Field(64, ge=1)
    limit: int | None = Field(None, ge=1)
    retries: int = Field(2, ge=0, le=20)
    backoff: float = Field(0.5, gt=0)
    timeout: float = Field(10.0, ge=1, le=86_400)
    deadline: float = Field(60.0, gt=0, le=86_400)
    max_bytes: int = Field(20_000_000, ge=1, le=1_000_000_000)
    max_pixels: int = Field(MAX_PIXELS, ge=1, le=MAX_DECODED_PIXELS)
    min_size: int = Field(1, ge=1, le=65_535)
    max_aspect: float | None = Field(None, ge=1, allow_inf_nan=False)
    keep_original: bool = False
    proxy: Annotated[str, AfterValidator(_proxy)] | None = None
    contact: Annotated[str, AfterValidator(_contact)] | None = None
    allow_private_hosts: bool = False
    ignore_robots_tag: bool = False
    chunk_rows: int = Field(1000, ge=1, le=100_000)

    @property
    def user_agent(self) -> str:
        """The User-Agent header: what this is, and whom to tell if it misbehaves."""
        return f"clipkit/{VERSION}" + (f" (+{self.contact})" if self.contact else "")

    @property
    def processes(self) -> int:
        """How many workers there are: no more than there may be connections to one host."""
        return min(self.workers, self.per_host)

    @property
    def connections_per_host(self) -> int:
        """One worker's share of `per_host`."""
        return self.per_host // self.processes

    @property
    def image_settings(self) -> dict[str, int | float | bool | str | None]:
        """The settings that the samples' bytes, or whether there is a sample, depend on."""
        names = (
            "image_size", "quality", "max_bytes", "max_pixels", "min_size", "max_aspect", "keep_original"
        )  # fmt: skip
        settings: dict[str, int | float | bool | str | None] = {name: getattr(self, name) for name in names}
        if self.ignore_robots_tag:  # no setting of the datasets that were made before there was a choice
            settings["ignore_robots_tag"] = True
        return settings
