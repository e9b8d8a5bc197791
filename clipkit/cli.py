"""The `clipkit` command. Each command parses, builds a config, calls one stage, and prints its result.

Progress goes to standard error, results to standard output; with --json the result is one JSON object and
nothing else stands on standard output. Exit codes: 0 success, 1 an expected failure in one line, 2 bad usage,
130 or 143 interrupted.
"""

import io
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from clipkit import scratch
from clipkit._version import VERSION
from clipkit.cli_ingest import ingest_app
from clipkit.cli_shards import shards_app
from clipkit.commands import Json, config_of, show
from clipkit.errors import ClipkitError, one_line, tell

if TYPE_CHECKING:
    from types import FrameType

app = typer.Typer(
    name="clipkit",
    help="From a list of image URLs to a trained, evaluated CLIP model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
plot_app = typer.Typer(no_args_is_help=True, help="Draw the numbers of runs.")
app.add_typer(ingest_app, name="ingest")
app.add_typer(shards_app, name="shards")
app.add_typer(plot_app, name="plot")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"clipkit {VERSION}")
        raise typer.Exit


@app.callback()
def clipkit(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From a list of image URLs to a trained, evaluated CLIP model."""


@app.command()
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
    model: Annotated[str, typer.Option(help="A named configuration: see `clipkit models`.")] = "RN50",
    name: Annotated[
        str | None, typer.Option(help="The run's name; an unfinished run of that name is continued.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="The folder of the runs.")] = Path("runs"),
    imagenet_val: Annotated[
        Path | None, typer.Option(help="ImageNet validation (wnid folders): zero-shot after each epoch.")
    ] = None,
    imagenet_v2: Annotated[Path | None, typer.Option(help="ImageNetV2 (folders 0…999), likewise.")] = None,
    batch_size: Annotated[int, typer.Option(help="Samples in a batch over all processes together.")] = 128,
    epochs: Annotated[int | None, typer.Option(help="Default: 32, as in the CLIP paper.")] = None,
    samples_seen: Annotated[int | None, typer.Option(help="Instead of epochs.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. Default: 5e-4.")] = None,
    beta1: Annotated[float | None, typer.Option(help="Adam's β₁. Default: 0.9.")] = None,
    beta2: Annotated[float | None, typer.Option(help="Adam's β₂. Default: 0.999, ViTs 0.98.")] = None,
    eps: Annotated[float | None, typer.Option(help="Adam's ε. Default: 1e-8, ViTs 1e-6.")] = None,
    weight_decay: Annotated[float, typer.Option(help="Not on gains, biases and logit scale.")] = 0.2,
    warmup: Annotated[
        float | None, typer.Option(help="Steps, or a fraction below 1. Default: 2,000, at most a tenth.")
    ] = None,
    schedule: Annotated[str, typer.Option(help="cosine or constant, after the warm-up.")] = "cosine",
    grad_clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16. Default: bf16 on CUDA.")] = None,
    grad_checkpointing: Annotated[
        bool, typer.Option("--grad-checkpointing", help="Less memory, a third more time; same results.")
    ] = False,
    crop_scale: Annotated[
        tuple[float, float], typer.Option(help="Least and largest share of the picture in a crop.")
    ] = (0.9, 1.0),
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of the pictures.")] = False,
    color_jitter: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="Strengths for brightness, contrast, saturation and hue."),
    ] = None,
    color_jitter_probability: Annotated[float, typer.Option(help="Share of pictures jittered.")] = 0.8,
    gray_scale_probability: Annotated[float, typer.Option(help="Share of pictures made grey.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of weights, order and crops.")] = 0,
    workers: Annotated[int, typer.Option(help="Loader processes of each training process.")] = 4,
    max_bad: Annotated[
        float, typer.Option(help="Share of samples that may be unreadable; ten may in any case.")
    ] = 0.001,
    save_every: Annotated[int, typer.Option(help="Samples between checkpoints.")] = 500_000,
    log_every: Annotated[int, typer.Option(help="Steps between lines of metrics.jsonl.")] = 10,
    keep: Annotated[
        int | None, typer.Option(help="Newest checkpoints that stay. Default: all epochs', two others.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a CLIP model on shards; the same command continues an interrupted run."""
    from clipkit.evaluate.config import EvaluateConfig
    from clipkit.evaluate.run import evaluators
    from clipkit.shards.mixture import Mixture
    from clipkit.shards.shard_set import ShardSet, name_of
    from clipkit.train.config import TrainConfig
    from clipkit.train.run import train
    from clipkit.train.run_directory import RunDirectory

    config = config_of(TrainConfig, locals())
    watched = evaluators(EvaluateConfig(imagenet_val=imagenet_val, imagenet_v2=imagenet_v2))
    if name is not None and (name in {"", ".", ".."} or "/" in name or "\0" in name):
        raise typer.BadParameter(f"--name: expected the name of one folder in --runs, found {name!r}")
    run = RunDirectory(runs / (name or f"{'+'.join(map(name_of, shards))}-{model.replace('/', '-')}"))
    sets = [ShardSet(each) for each in shards]
    data = sets[0] if len(sets) == 1 and not weight else Mixture(sets, weight, repeat=repeat)
    show(train(config, data, run, watched), as_json)


@app.command()
def evaluate(
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A model of any format, or RN50, ViT-B/32 … Default: the newest run's newest."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where to look for the newest run.")] = Path("runs"),
    imagenet_val: Annotated[Path | None, typer.Option(help="ImageNet validation: wnid folders.")] = None,
    imagenet_v2: Annotated[Path | None, typer.Option(help="ImageNetV2: folders 0…999.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Any folder with one folder a class.")] = None,
    classes: Annotated[
        Path | None, typer.Option(help="CSV for --folder: columns folder,names; names separated by |.")
    ] = None,
    templates: Annotated[
        Path | None, typer.Option(help="Prompts of every set, one a line, {} for the name.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the file does not say: RN50-quickgelu, RN50-gelu and so on.")
    ] = None,
    allow_subset: Annotated[
        bool, typer.Option("--allow-subset", help="Accept fewer classes or pictures, and say so.")
    ] = False,
    batch_size: Annotated[int | None, typer.Option(help="Pictures in a batch.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode. Default: by the size of the set.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure zero-shot classification; each result is appended to the run's results.jsonl."""
    from clipkit.evaluate.config import EvaluateConfig
    from clipkit.evaluate.run import evaluate
    from clipkit.train.checkpoints import naming_older
    from clipkit.train.run_directory import newest_checkpoint

    config = config_of(EvaluateConfig, locals())
    chosen = checkpoint or newest_checkpoint(runs)
    if checkpoint is None:
        print(f"checkpoint: {chosen}", file=sys.stderr)
    with naming_older(chosen, lambda older: f"evaluate it with --checkpoint {older}"):
        show(evaluate(chosen, config, model=model), as_json)


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(help="A model file, the folder of a Hugging Face CLIPModel, or RN50, ViT-B/32 …"),
    ],
    target: Annotated[Path, typer.Argument(help="The file to write, or the folder for hf.")],
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


@plot_app.command("curves")
def plot_curves(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    out: Annotated[Path, typer.Option(help="The picture to write: .png or .svg.")],
    as_json: Json = False,
) -> None:
    """Draw loss and accuracy against the samples seen, for one or several runs."""
    from clipkit.evaluate.plots import plot_curves

    show(plot_curves(runs, out), as_json)


@app.command()
def models(as_json: Json = False) -> None:
    """List the named configurations with parameters and GFLOPs of one picture and one caption."""
    from clipkit.model.profile import model_table

    show(model_table(), as_json)


def _ended(number: int, frame: "FrameType | None") -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # a second one does not wait until all is put in order
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def main() -> None:
    """Run the command line; end the process with its exit code."""
    signal.signal(signal.SIGTERM, _ended)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # who ignores it may go on doing so
        signal.signal(signal.SIGINT, _ended)
    for stream in (sys.stdout, sys.stderr):  # file names may hold bytes that are no UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Threads that spin while they wait starve the loader's processes where cores are few or shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(prog_name="clipkit")
    except ClipkitError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        if not isinstance(error, OSError) or error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        what = error.strerror or os.strerror(error.errno)
        # Whether anything is kept depends on the command and the moment: nothing is said of it.
        _fail(f"{place}{what}: mend this and run the same command again", 1)
    finally:
        scratch.clear()
        for number in (signal.SIGINT, signal.SIGTERM):  # libraries that end from now on cannot be interrupted
            if signal.getsignal(number) is _ended:
                signal.signal(number, signal.SIG_DFL)


def _fail(line: str, code: int) -> NoReturn:
    tell(one_line(f"clipkit: {line}"))
    sys.exit(code)
