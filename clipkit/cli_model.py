"""`clipkit convert` and `clipkit models`."""

from pathlib import Path
from typing import Annotated

import typer

from clipkit.commands import LOCAL, Json, show


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            **LOCAL | {"metavar": "SOURCE"},
            help="A model file, the folder of a Hugging Face CLIPModel, or RN50, ViT-B/32 …",
        ),
    ],
    target: Annotated[
        Path, typer.Argument(**LOCAL | {"metavar": "TARGET"}, help="The file to write, or the folder for hf.")
    ],
    to: Annotated[str, typer.Option(help="openai, open-clip, hf, safetensors or clipkit.")] = "openai",
    model: Annotated[
        str | None, typer.Option(help="Where SOURCE does not say: RN50-quickgelu, RN50-gelu and so on.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a checkpoint in another tool's format, open it by that tool's rules, and compare features."""
    from clipkit.model.formats.names import FORMAT_NAMES

    if to not in FORMAT_NAMES:
        raise typer.BadParameter(f"--to: expected one of {', '.join(FORMAT_NAMES)}, found {to!r}")
    from clipkit.model.convert import convert

    show(convert(source, target, to, model), as_json)


def models(as_json: Json = False) -> None:
    """List the named configurations with parameters and GFLOPs of one picture and one caption."""
    from clipkit.model.profile import model_table

    show(model_table(), as_json)
