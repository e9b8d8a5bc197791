"""`clipkit train`: its options are where the data and the run lie, and the fields of TrainConfig."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clipkit.commands import Json, config_of, show, with_options_of
from clipkit.train.config import TrainConfig


@with_options_of(TrainConfig)
def train(
    shards: Annotated[
        list[str],
        typer.Option(
            metavar="DIR",
            help="The dataset directory to train on, its s3://, gs:// or https:// address, or tars of other "
            "tools: a folder or a pattern such as 'laion/{00000..00099}.tar'. Several are mixed.",
        ),
    ],
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Of several --shards, one for each. Default: each sample once an epoch."),
    ] = None,
    repeat: Annotated[
        bool,
        typer.Option("--repeat", help="An epoch ends with the last of several --shards, not with the first."),
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="The run's name; an unfinished run of that name is continued.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="The folder of the runs.")] = Path("runs"),
    imagenet_val: Annotated[
        Path | None, typer.Option(help="ImageNet validation (wnid folders): zero-shot after each epoch.")
    ] = None,
    imagenet_v2: Annotated[Path | None, typer.Option(help="ImageNetV2 (folders 0…999), likewise.")] = None,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Train a CLIP model on shards; the same command continues an interrupted run."""
    from clipkit.evaluate.config import EvaluateConfig
    from clipkit.evaluate.run import evaluators
    from clipkit.shards.mixture import Mixture
    from clipkit.shards.shard_set import ShardSet, name_of
    from clipkit.train.distributed import open_world
    from clipkit.train.launch import launch, processes_to_start
    from clipkit.train.run import train
    from clipkit.train.run_directory import RunDirectory

    config = config_of(TrainConfig, settings)
    if name is not None and (name in {"", ".", ".."} or "/" in name or "\0" in name):
        raise typer.BadParameter(f"--name: expected the name of one folder in --runs, found {name!r}")
    processes = processes_to_start(config)
    if processes > 1:
        launch(processes)
        return
    with open_world(timeout=config.timeout):  # joined first: what fails from here on ends the others soon
        watched = evaluators(EvaluateConfig(imagenet_val=imagenet_val, imagenet_v2=imagenet_v2))
        run = RunDirectory(
            runs / (name or f"{'+'.join(map(name_of, shards))}-{config.model.replace('/', '-')}")
        )
        sets = [ShardSet(each) for each in shards]
        data = sets[0] if len(sets) == 1 and not weight else Mixture(sets, weight, repeat=repeat)
        show(train(config, data, run, watched), as_json)
