"""The `clipkit` command. Each command parses, builds a config, calls one stage, and prints its result.

Progress goes to standard error, results to standard output; with --json the result is one JSON object and
nothing else stands on standard output. Exit codes: 0 success, 1 an expected failure in one line, 2 bad usage,
130 or 143 interrupted, 138 after a SIGUSR1 to train.
"""

import io
import os
import re
import sys
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from clipkit import scratch
from clipkit._version import VERSION
from clipkit.errors import ClipkitError, one_line
from clipkit.launched import fail
from clipkit.remote import say_no_more
from clipkit.signals import ended_by_signals

_COMMANDS = {
    "train": "cli_train.train",
    "evaluate": "cli_evaluate.evaluate",
    "finetune": "cli_finetune.finetune",
    "convert": "cli_model.convert",
    "models": "cli_model.models",
    "ingest": "cli_ingest.ingest_app",
    "shards": "cli_shards.shards_app",
    "plot": "cli_plot.plot_app",
}
"""What each is made of: a function, or an app of several commands."""


class _Commands(TyperGroup):
    """Commands whose modules are imported once they are asked for, which takes each of the others no time."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return their names, in the order of the help."""
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return one; None if there is none of that name, and then all are there to be suggested."""
        for name in [cmd_name] if cmd_name in _COMMANDS else _COMMANDS:
            if name not in self.commands:
                self.commands[name] = _command(name)
        return super().get_command(ctx, cmd_name)


def _command(name: str) -> Any:
    module, _, made_of = _COMMANDS[name].partition(".")
    found = getattr(import_module(f"clipkit.{module}"), made_of)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    if isinstance(found, typer.Typer):
        alone.add_typer(found, name=name)
        return typer.main.get_command(alone).commands[name]  # type: ignore[attr-defined]
    alone.command(name)(found)
    return typer.main.get_command(alone)


app = typer.Typer(
    cls=_Commands,
    name="clipkit",
    help="From a list of image URLs to a trained, evaluated CLIP model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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
