"""`clipkit plot`: the figures of runs as pictures."""

from pathlib import Path
from typing import Annotated

import typer

from clipkit.commands import LOCAL, Json, show

plot_app = typer.Typer(no_args_is_help=True, help="Draw the numbers of runs.")

Out = Annotated[Path, typer.Option(**LOCAL, help="The picture to write: .png or .svg.")]


@plot_app.command("curves")
def plot_curves(
    runs: Annotated[list[Path], typer.Argument(**LOCAL | {"metavar": "RUN"}, help="Run directories.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Draw loss and accuracy against the samples seen, for one or several runs."""
    from clipkit.evaluate.plots import plot_curves

    show(plot_curves(runs, out), as_json)


@plot_app.command("robustness")
def plot_robustness(
    out: Out,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            **LOCAL | {"metavar": "RUN"},
            help="Run directories or results.jsonl files; none: the published models alone.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw ImageNet against ImageNetV2, beside the trend of models trained on ImageNet."""
    from clipkit.evaluate.robustness_plot import plot_robustness

    show(plot_robustness(inputs or [], out), as_json)


@plot_app.command("scaling")
def plot_scaling(
    inputs: Annotated[
        list[Path],
        typer.Argument(**LOCAL | {"metavar": "RUN"}, help="Run directories or results.jsonl files."),
    ],
    out: Out,
    samples: Annotated[
        str, typer.Option(help="seen: all that were trained on; used: different ones, at most an epoch.")
    ] = "seen",
    only: Annotated[
        list[str] | None, typer.Option("--set", help="A set to draw, several times if need be. Default: all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw zero-shot accuracy against samples on a log scale, with a power law of the error."""
    if samples not in ("seen", "used"):
        raise typer.BadParameter(f"--samples: expected seen or used, found {samples!r}")
    from clipkit.evaluate.scaling_plot import plot_scaling

    show(plot_scaling(inputs, out, axis="used" if samples == "used" else "seen", only=only or []), as_json)
