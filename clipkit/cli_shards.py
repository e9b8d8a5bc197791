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


@shards_app.command("bench")
def shards_bench(
    directory: Annotated[Path, typer.Argument(help="A dataset directory.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in a batch.")] = 256,
    workers: Annotated[int, typer.Option(min=0, max=1024, help="Loader processes.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Batches to measure.")] = 20,
    image_size: Annotated[int, typer.Option(min=1, max=4096, help="Pixels that the model takes.")] = 224,
    as_json: Json = False,
) -> None:
    """Measure how fast the samples can be read for training, step by step, and say what limits it."""
    from clipkit.model.preprocess import TrainTransform
    from clipkit.model.tokenizer import Tokenizer
    from clipkit.shards.bench import bench
    from clipkit.shards.shard_set import ShardSet

    sizes = {"batch_size": batch_size, "workers": workers, "steps": steps}
    result = bench(ShardSet(directory), **sizes, transform=TrainTransform(image_size), tokenize=Tokenizer())
    show(result, as_json)
