"""`clipkit shards …`: what can be done with a dataset directory."""

from pathlib import Path
from typing import Annotated

import typer

from clipkit.commands import Json, show

shards_app = typer.Typer(no_args_is_help=True, help="Look at a dataset directory.")


@shards_app.command("info")
def shards_info(
    directory: Annotated[Path, typer.Argument(help="A dataset directory.")],
    as_json: Json = False,
) -> None:
    """Count samples, bytes, sizes, captions, and failures by cause."""
    from clipkit.shards.summary import summarize

    show(summarize(directory), as_json)
