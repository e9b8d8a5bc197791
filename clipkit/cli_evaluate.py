"""`clipkit evaluate`: its options are the model, and the fields of EvaluateConfig."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clipkit.commands import LOCAL, Json, config_of, given, show, with_options_of
from clipkit.evaluate.config import EvaluateConfig


@with_options_of(EvaluateConfig)
def evaluate(
    context: typer.Context,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            **LOCAL, help="A model of any format, or RN50, ViT-B/32 … Default: the newest run's newest."
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(**LOCAL, help="Where to look for the newest run.")] = Path("runs"),
    model: Annotated[
        str | None, typer.Option(help="Where the file does not say: RN50-quickgelu, RN50-gelu and so on.")
    ] = None,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Measure zero-shot classification and retrieval; each result is appended to the run's results.jsonl."""
    config = config_of(EvaluateConfig, given(context, settings))

    from clipkit.evaluate.ranks import first_text
    from clipkit.evaluate.run import evaluate
    from clipkit.train.checkpoints import naming_older
    from clipkit.train.distributed import open_world, processes_to_start
    from clipkit.train.run_directory import newest_checkpoint

    processes = processes_to_start(config.processes)
    if processes > 1:
        from clipkit.train.launch import launch

        launch(processes, "run the same command again")
        return
    with open_world(timeout=config.timeout) as world:
        found = (checkpoint or newest_checkpoint(runs)) if world.is_first else checkpoint
        chosen = Path(first_text(str(found), world))  # a run in training may have another one meanwhile
        if checkpoint is None:
            world.say(f"checkpoint: {chosen}")
        with naming_older(chosen, lambda older: f"evaluate it with --checkpoint {older}"):
            evaluated = evaluate(chosen, config, model=model, device=str(world.device), ranks=world)
        world.barrier()  # what the first one cannot write ends the others, too
    show(evaluated, as_json)
