"""`clipkit train`: its options are where the data and the run lie, and the fields of TrainConfig."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from clipkit.commands import LOCAL, Json, check_run_name, config_of, given, show, with_options_of
from clipkit.train.config import TrainConfig


@with_options_of(TrainConfig)
def train(
    context: typer.Context,
    shards: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR",
            help="The dataset directory to train on, its s3://, gs:// or https:// address, or tars of other "
            "tools: a folder or a pattern such as 'laion/{00000..00099}.tar'. Several are mixed.",
        ),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Of several --shards, one for each. Default: each sample once an epoch."),
    ] = None,
    repeat: Annotated[
        bool,
        typer.Option("--repeat", help="An epoch ends with the last of several --shards, not with the first."),
    ] = False,
    csv: Annotated[
        Path | None,
        typer.Option(
            **LOCAL, help="Instead of --shards: a table of pictures on this machine, as OpenCLIP's CSV is."
        ),
    ] = None,
    image_col: Annotated[
        str, typer.Option(help="The tables' column of paths, from the table's folder.")
    ] = "filepath",
    caption_col: Annotated[str, typer.Option(help="The tables' column of captions.")] = "title",
    separator: Annotated[
        str | None,
        typer.Option(help="What stands between the tables' columns. Default: found, of tab , ; and |"),
    ] = None,
    val_shards: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Like --shards: loss and retrieval on them whenever the model is evaluated."
        ),
    ] = None,
    val_csv: Annotated[
        Path | None, typer.Option(**LOCAL, help="Instead of --val-shards: like --csv.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The run's name; an unfinished run of that name is continued.")
    ] = None,
    runs: Annotated[Path, typer.Option(**LOCAL, help="The folder of the runs.")] = Path("runs"),
    imagenet_val: Annotated[
        Path | None,
        typer.Option(
            **LOCAL, help="ImageNet validation as `clipkit evaluate` takes it: zero-shot after each epoch."
        ),
    ] = None,
    imagenet_labels: Annotated[
        Path | None, typer.Option(**LOCAL, help="The classes of an --imagenet-val without class folders.")
    ] = None,
    imagenet_v2: Annotated[Path | None, typer.Option(**LOCAL, help="ImageNetV2 likewise.")] = None,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Train a CLIP model on shards or a table of pictures; the same command continues an interrupted run."""
    config = config_of(TrainConfig, given(context, settings))
    if bool(shards) == bool(csv):
        raise typer.BadParameter(f"expected one of --shards and --csv, found {'both' if csv else 'neither'}")
    if val_shards and val_csv:
        raise typer.BadParameter("expected one of --val-shards and --val-csv, found both")
    check_run_name(name)

    from clipkit.evaluate.config import EvaluateConfig
    from clipkit.evaluate.run import evaluators
    from clipkit.locations import decoded
    from clipkit.shards.csv_set import CsvSet
    from clipkit.shards.mixture import Mixture
    from clipkit.shards.shard_set import ShardSet, name_of
    from clipkit.train.distributed import open_world, processes_to_start
    from clipkit.train.launch import launch
    from clipkit.train.run import train
    from clipkit.train.run_directory import RunDirectory
    from clipkit.train.shares import check_shares

    processes = processes_to_start(config.processes)
    check_shares(config, processes)
    if processes > 1:
        launch(processes, "the same command goes on from the last checkpoint")
        return
    with open_world(timeout=config.timeout):  # joined first: what fails from here on ends the others soon
        table = partial(CsvSet, image_column=image_col, caption_column=caption_col, separator=separator)
        validation = ShardSet(val_shards) if val_shards else table(val_csv) if val_csv else None
        given_sets = {
            "imagenet_val": imagenet_val,
            "imagenet_labels": imagenet_labels,
            "imagenet_v2": imagenet_v2,
        }
        images = config_of(EvaluateConfig, given_sets)
        watched = evaluators(images, validation, loss_batch=config.batch_size)
        stem = csv.stem if csv else "+".join(map(name_of, shards or []))
        run = RunDirectory(runs / (name or f"{decoded(stem)}-{config.model.replace('/', '-')}"))
        sets = [table(csv)] if csv else [ShardSet(each) for each in shards or []]
        data = sets[0] if len(sets) == 1 and not weight else Mixture(sets, weight, repeat=repeat)
        show(train(config, data, run, watched), as_json)
