"""`clipkit finetune`: its options are the model, where the run lies, and the fields of FinetuneConfig."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clipkit.commands import LOCAL, Json, check_run_name, config_of, given, show, with_options_of
from clipkit.finetune.config import FinetuneConfig
from clipkit.locations import decoded


@with_options_of(FinetuneConfig)
def finetune(
    context: typer.Context,
    checkpoint: Annotated[
        Path, typer.Option(**LOCAL, help="The zero-shot model: of any format, or RN50, ViT-B/32 …")
    ],
    model: Annotated[
        str | None, typer.Option(help="Where the file does not say: RN50-quickgelu, RN50-gelu and so on.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The run's name; an unfinished run of that name is continued.")
    ] = None,
    runs: Annotated[Path, typer.Option(**LOCAL, help="The folder of the runs.")] = Path("runs"),
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Fine-tune a zero-shot model and measure the line between both (WiSE-FT), in and out of distribution."""
    config = config_of(FinetuneConfig, given(context, settings))
    check_run_name(name)

    from clipkit.finetune.run import finetune
    from clipkit.train.run_directory import RunDirectory

    run = RunDirectory(runs / (name or f"finetune-{decoded(config.folder.resolve().name)}"))
    show(finetune(checkpoint, config, run, model=model), as_json)
