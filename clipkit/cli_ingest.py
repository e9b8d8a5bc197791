"""`clipkit ingest …`: each command says how its list is opened; all else is the same for all of them."""

import inspect
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit.commands import Json, config_of, show, take
from clipkit.locations import local_path, location, writable_location

if TYPE_CHECKING:
    from clipkit.ingest.config import IngestConfig
    from clipkit.ingest.sources import Source


class CaptionOf(StrEnum):
    """Where a caption of YFCC100M is taken from."""

    TITLE = "title"
    DESCRIPTION = "description"
    BOTH = "both"


class EngineName(StrEnum):
    """Where, or with which tool, an ingest runs."""

    LOCAL = "local"
    RAY = "ray"
    SPARK = "spark"
    IMG2DATASET = "img2dataset"


ingest_app = typer.Typer(no_args_is_help=True, help="Download, check and resize images into exact shards.")


def _run(
    source: "Source",
    config: "IngestConfig",
    out: Annotated[
        Path | None,
        typer.Option(
            parser=writable_location,
            metavar="DIR",
            help="The dataset directory, or an address of s3:// or gs://. Default: the first file's stem.",
        ),
    ] = None,
    image_size: Annotated[int, typer.Option(help="Short side of larger pictures, in pixels.")] = 256,
    quality: Annotated[int, typer.Option(help="JPEG quality of the stored pictures.")] = 95,
    keep_original: Annotated[
        bool, typer.Option("--keep-original", help="Store the bytes as served, neither resized nor upright.")
    ] = False,
    min_size: Annotated[int, typer.Option(help="Short side as served, in pixels; smaller ones fail.")] = 1,
    max_aspect: Annotated[
        float | None, typer.Option(help="Long side / short side as served; longer ones fail.")
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(
            help="local: processes on this machine. ray, spark: tasks on the cluster that their own settings "
            "name, else on this machine; all nodes must see --out under the same name. img2dataset: that "
            "tool makes the requests, by its own rules: no check of addresses, no limit to one host, sizes "
            "checked only when all has come, a browser's User-Agent, a proxy from the environment."
        ),
    ] = EngineName.LOCAL,
    workers: Annotated[
        int | None, typer.Option(help="Processes, or tasks on a cluster. Default: one a CPU of this machine.")
    ] = None,
    connections: Annotated[int, typer.Option(help="Connections of each worker.")] = 64,
    per_host: Annotated[int, typer.Option(help="Connections to one host, of all workers together.")] = 64,
    limit: Annotated[
        int | None, typer.Option(help="Use only the first N records; a larger N later appends the next.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also try again what failed for a reason that may pass.")
    ] = False,
    retries: Annotated[int, typer.Option(help="Further attempts after failures that can pass.")] = 2,
    timeout: Annotated[float, typer.Option(help="Seconds for a connect, and for a stall.")] = 10.0,
    deadline: Annotated[float, typer.Option(help="Seconds for one URL, all attempts and waits.")] = 60.0,
    contact: Annotated[str | None, typer.Option(help="A URL or address to put into the User-Agent.")] = None,
    proxy: Annotated[
        str | None, typer.Option(help="http://HOST:PORT or socks5h://…; the check of addresses is its then.")
    ] = None,
    allow_private_hosts: Annotated[
        bool, typer.Option("--allow-private-hosts", help="Also fetch from loopback and private addresses.")
    ] = False,
    ignore_robots_tag: Annotated[
        bool,
        typer.Option(
            "--ignore-robots-tag",
            help="Take pictures although an X-Robots-Tag opts out; for sites that are yours, or agreed.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    from clipkit.ingest.engines.names import chosen
    from clipkit.ingest.run import ingest

    result = ingest(
        source, out or Path(source.stem), config, retry_failed=retry_failed, engine=chosen(engine, config)
    )
    show(result, as_json)


_SHARED = list(inspect.signature(_run).parameters.values())[2:]


def _command(name: str) -> Callable[[Callable[..., "Source"]], Callable[..., "Source"]]:
    """Make a command of a function that opens a source: its options, then those that all share."""

    def register(opening: Callable[..., "Source"]) -> Callable[..., "Source"]:
        own = inspect.signature(opening).parameters.values()

        def command(**options: Any) -> None:
            # Ingest multiplies no matrices: in each process, threads would be made for it, and wait.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            from clipkit.processes import lasting

            with lasting():
                import clipkit.ingest.run  # noqa: F401
                from clipkit.ingest.config import IngestConfig
            config = config_of(IngestConfig, options)  # before a list is read, which may take minutes
            opened = opening(**{parameter.name: options.pop(parameter.name) for parameter in own})
            _run(opened, config, **options)

        take((parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in (*own, *_SHARED)), command)
        command.__doc__ = opening.__doc__
        ingest_app.command(name)(command)
        return opening

    return register


@_command("cc")
def ingest_cc(
    files: Annotated[
        list[Path],
        typer.Argument(
            parser=location,
            metavar="FILE",
            help="Conceptual Captions lists: caption⇥URL (3M) or URL⇥caption (12M); here or at an address.",
        ),
    ],
) -> "Source":
    """Download a Conceptual Captions list into a dataset of exact shards; run it again to continue."""
    from clipkit.ingest.conceptual_captions import conceptual_captions

    return conceptual_captions(files)


@_command("table")
def ingest_table(
    files: Annotated[
        list[Path],
        typer.Argument(
            parser=location,
            metavar="FILE",
            help="csv, tsv, jsonl or parquet, text also as .gz, .bz2 or .zst; or a folder of them.",
        ),
    ],
    url_col: Annotated[str | None, typer.Option(help="Default: found by its usual names.")] = None,
    caption_col: Annotated[str | None, typer.Option(help="Default: found by its usual names.")] = None,
    keep_col: Annotated[
        list[str] | None, typer.Option(help="A further column for the manifest; may be given several times.")
    ] = None,
    hash_col: Annotated[
        str | None,
        typer.Option(help="MD5, SHA-1, SHA-256 or SHA-512 of the bytes to be served; others fail."),
    ] = None,
    blur_col: Annotated[
        str | None,
        typer.Option(
            help="Boxes to blur, [[left, top, right, bottom], …] in shares of width and height, such as "
            "DataComp's face_bboxes."
        ),
    ] = None,
) -> "Source":
    """Download the pictures of tables (LAION, DataComp, COYO, your own); run it again to continue."""
    from clipkit.ingest.table_files import table_files

    return table_files(files, url_col, caption_col, keep_col or [], hash_col, blur_col)


@_command("yfcc")
def ingest_yfcc(
    subset: Annotated[
        Path,
        typer.Argument(
            parser=location,
            metavar="SUBSET",
            help="OpenAI's yfcc100m_subset_data.tsv: line number, photo id, hash.",
        ),
    ],
    metadata: Annotated[
        Path,
        typer.Option(
            parser=location,
            metavar="FILE",
            help="yfcc100m_dataset as text, plain or .bz2, or yfcc100m_dataset.sql (SQLite).",
        ),
    ],
    caption: Annotated[CaptionOf, typer.Option(help="What the caption is made of.")] = CaptionOf.BOTH,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Fetch from the Multimedia Commons mirror, not from Flickr.")
    ] = False,
) -> "Source":
    """Download a subset of YFCC100M; run it again to continue."""
    from clipkit.ingest.yfcc import yfcc

    return yfcc(subset, metadata, caption.value, mirror=mirror)


@_command("files")
def ingest_files(
    file: Annotated[
        Path,
        typer.Argument(
            parser=local_path,
            metavar="FILE",
            help="A table of pictures on this machine; any usual delimiter.",
        ),
    ],
    image_col: Annotated[
        str, typer.Option(help="The column of paths, from the table's folder.")
    ] = "filepath",
    caption_col: Annotated[str, typer.Option(help="The column of captions.")] = "title",
) -> "Source":
    """Make a dataset of pictures on this machine, as OpenCLIP's CSV lists them; nothing is requested."""
    from clipkit.ingest.local_files import local_files

    return local_files(file, image_col, caption_col)


@_command("tars")
def ingest_tars(
    src: Annotated[
        list[str],
        typer.Argument(
            help="Tars, folders of them, globs, or patterns as webdataset takes them: '{00000..00331}.tar'; "
            "here, or at s3://, gs:// or https://."
        ),
    ],
    caption_col: Annotated[
        str | None,
        typer.Option(
            help="The json's field of captions. Default: the txt member, else caption or text of the json."
        ),
    ] = None,
    keep_col: Annotated[
        list[str] | None,
        typer.Option(help="A field of the json for the manifest, as text; may be given several times."),
    ] = None,
) -> "Source":
    """Adopt the samples of webdataset's or img2dataset's tars; run it again to continue.

    A record is a sample of a tar, or a failure in img2dataset's Parquet file beside it. Pictures go through
    the same step as those of the network: --keep-original adopts them byte for byte. Tars behind addresses
    are copied to the cache of each machine that works. Nothing else is requested but, with --retry-failed,
    what img2dataset did not get for a reason that may pass.
    """
    from clipkit.ingest.tars import tars

    return tars(src, caption_col, keep_col or [])
