"""`clipkit shards …`: what can be done with a dataset directory."""

from pathlib import Path
from typing import Annotated

import typer

from clipkit.commands import Json, config_of, show
from clipkit.cpus import MOST_WORKERS
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
    keys: Annotated[
        Path | None,
        typer.Option(
            parser=location,
            metavar="FILE",
            help="Keep the samples of these keys: one a line, or the column key of Parquet.",
        ),
    ] = None,
    without_keys: Annotated[
        Path | None,
        typer.Option(
            parser=location,
            metavar="FILE",
            help="Leave out the samples of these keys, such as those of dedup --list.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="<float>",
            help="Share of pictures for validation, such as 0.01 or 1%, by a hash of each: makes OUT/train "
            "and OUT/val.",
        ),
    ] = None,
    part: Annotated[str | None, typer.Option(help="train or val: of --split only that side, as OUT.")] = None,
    skip_broken: Annotated[
        bool,
        typer.Option(
            "--skip-broken",
            help="Leave out what is broken: damaged samples of a tar, or all of a shard whose manifest is.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Derive a dataset of some of the samples: bytes copied, shards of 1,000 again, provenance kept."""
    from clipkit.shards.filter import FilterConfig, filter_dataset

    show(filter_dataset(directory, out, config_of(FilterConfig, locals())), as_json)


@shards_app.command("verify")
def shards_verify(
    directory: DatasetDirectory,
    decode: Annotated[
        bool, typer.Option("--decode", help="Also decode every picture, and compare its size.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Make index, manifests, sizes and totals anew from the tars, which are not touched. Restore "
            "broken tars from a copy first, or have filter --skip-broken copy what is whole of them: else "
            "their samples become failures.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_WORKERS,
            help="Shards to read at a time. Default: one a CPU, behind an address eight.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every byte of every shard against manifests and index, and what all of them account for."""
    from clipkit.shards.repair import repair as repaired
    from clipkit.shards.verify import verify

    result = (repaired if repair else verify)(directory, decode=decode, workers=workers)
    show(result, as_json)
    result.check()


@shards_app.command("show")
def shards_show(
    directory: DatasetDirectory,
    key: Annotated[str | None, typer.Argument(help="The key of one sample, nine digits.")] = None,
    random: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Instead of KEY: so many samples, as a page.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of --random. Default: another one each time, which is printed.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=writable_location,
            metavar="FILE",
            help="The file to write: the picture of KEY as it is, or the page, .html.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show all that is known of one sample, or write a page of some at random."""
    from clipkit.shards.show import show_random, show_sample

    if (key is None) == (random is None):
        raise typer.BadParameter("expected either a KEY or --random N")
    if random is None and seed is not None:
        raise typer.BadParameter("--seed: expected --random N with it")
    if random is None:
        show(show_sample(directory, str(key), out), as_json)
    elif out is None:
        raise typer.BadParameter("--random: expected --out FILE.html for the page")
    else:
        show(show_random(directory, random, out, seed), as_json)


@shards_app.command("dedup")
def shards_dedup(
    directory: DatasetDirectory,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=writable_location,
            metavar="DIR",
            help="The new dataset directory. Without it nothing is written.",
        ),
    ] = None,
    near: Annotated[
        int | None,
        typer.Option(
            help="Also pictures whose 64-bit difference hashes differ in at most so many bits, ≤ 8."
        ),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            parser=location,
            metavar="DIR",
            help="Instead: leave out what is in this dataset or folder of pictures, repeatable.",
        ),
    ] = None,
    list_file: Annotated[
        Path | None,
        typer.Option(
            "--list",
            parser=writable_location,
            metavar="FILE",
            help="Write what is left out, and what for, as Parquet.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find pictures that are there twice, or also in an evaluation set; derive a dataset without them."""
    from clipkit.ingest.folder_hashes import hash_folder
    from clipkit.shards.dedup import DedupConfig, dedup

    config = config_of(DedupConfig, locals())
    others = against or ()
    result = dedup(directory, config, out=out, others=others, listed=list_file, hash_folder=hash_folder)
    show(result, as_json)


@shards_app.command("bench")
def shards_bench(
    source: Annotated[
        str, typer.Argument(metavar="DIR", help="A dataset directory, its address, or tars of other tools.")
    ],
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in a batch.")] = 256,
    workers: Annotated[int, typer.Option(min=0, max=MOST_WORKERS, help="Loader processes.")] = 4,
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
    result = bench(ShardSet(source), **sizes, transform=TrainTransform(image_size), tokenize=Tokenizer())
    show(result, as_json)
