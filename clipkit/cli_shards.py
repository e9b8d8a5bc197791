"""`clipkit shards …`: what can be done with a dataset directory."""

from pathlib import Path
from typing import Annotated

import typer

from clipkit.commands import Json, config_of, show
from clipkit.locations import location, writable_location

DatasetDirectory = Annotated[
    Path,
    typer.Argument(
        parser=location, metavar="DIR", help="A dataset directory, or its s3://, gs:// or https://."
    ),
]

shards_app = typer.Typer(no_args_is_help=True, help="Look at a dataset directory, or derive another from it.")


@shards_app.command("info")
def shards_info(
    directory: DatasetDirectory,
    as_json: Json = False,
) -> None:
    """Count samples, bytes, sizes, captions, and failures by cause."""
    from clipkit.shards.summary import summarize

    show(summarize(directory), as_json)


@shards_app.command("filter")
def shards_filter(
    directory: DatasetDirectory,
    out: Annotated[
        Path, typer.Option(parser=writable_location, metavar="DIR", help="The new dataset directory.")
    ],
    where: Annotated[
        str | None,
        typer.Option(help="Keep samples for which this holds: SQL on the manifests' columns."),
    ] = None,
    split: Annotated[
        float | None,
        typer.Option(
            help="Share of pictures for validation, by a hash of each: makes OUT/train and OUT/val."
        ),
    ] = None,
    part: Annotated[str | None, typer.Option(help="train or val: of --split only that side, as OUT.")] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out shards that are not as the index says.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Derive a dataset of some of the samples: bytes copied, shards of 1,000 again, provenance kept."""
    from clipkit.shards.filter import FilterConfig, filter_dataset

    show(filter_dataset(directory, out, config_of(FilterConfig, locals())), as_json)
