"""The `clipkit` command. Each command parses, builds a config, calls one stage, and prints its result.

Progress goes to standard error, results to standard output; with --json the result is one JSON object and
nothing else stands on standard output. Exit codes: 0 success, 1 an expected failure in one line, 2 bad usage,
130 or 143 interrupted, 138 after a SIGUSR1 to train.
"""

import io
import os
import re
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from clipkit import scratch
from clipkit._version import VERSION
from clipkit.cli_evaluate import evaluate
from clipkit.cli_finetune import finetune
from clipkit.cli_ingest import ingest_app
from clipkit.cli_plot import plot_app
from clipkit.cli_shards import shards_app
from clipkit.cli_train import train
from clipkit.commands import LOCAL, Json, show
from clipkit.errors import ClipkitError, one_line
from clipkit.launched import fail
from clipkit.remote import say_no_more
from clipkit.signals import ended_by_signals

app = typer.Typer(
    name="clipkit",
    help="From a list of image URLs to a trained, evaluated CLIP model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(ingest_app, name="ingest")
app.add_typer(shards_app, name="shards")
app.add_typer(plot_app, name="plot")
app.command()(train)
app.command()(evaluate)
app.command()(finetune)


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


@app.command()
def models(as_json: Json = False) -> None:
    """List the named configurations with parameters and GFLOPs of one picture and one caption."""
    from clipkit.model.profile import model_table

    show(model_table(), as_json)


_NO_ROOM = re.compile("failed to map segment from shared object|can't start new thread")


def main() -> None:
    """Run the command line, once in a process, and end that with its exit code."""
    for stream in (sys.stdout, sys.stderr):  # file names may hold bytes that are no UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Threads that spin while they wait starve the loader's processes where cores are few or shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with ended_by_signals():
        try:
            _run()
        finally:
            scratch.clear()


def _run() -> None:
    try:
        app(prog_name="clipkit")
    except ClipkitError as error:
        _fail(str(error), type(error).__name__, error.exit_code)
    except Exception as error:
        if isinstance(error, MemoryError) or _NO_ROOM.search(str(error)):
            what = f"there is not memory enough ({str(error) or type(error).__name__})"
            _fail(f"{what}: make some free, or raise the limit (ulimit -v, -u)", "MemoryError", 1)
        if not isinstance(error, OSError) or error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        what = error.strerror or os.strerror(error.errno)
        # Whether anything is kept depends on the command and the moment: nothing is said of it.
        _fail(f"{place}{what}: mend this and run the same command again", type(error).__name__, 1)


def _fail(line: str, kind: str, code: int) -> NoReturn:
    say_no_more()
    fail(one_line(f"clipkit: {line}"), kind, code)
    sys.exit(code)
