"""`clipkit plot curves`: several runs side by side, over the samples that they had seen."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, PercentFormatter

from clipkit.atomic import replaced
from clipkit.errors import EvaluationError
from clipkit.evaluate.curves import RECALL, VALIDATION_LOSS, RunCurves, read_run

Dashes: TypeAlias = Literal["-", "--", "-.", ":"]

PICTURE_SUFFIXES = (".png", ".svg")
_DOTS_PER_INCH = 200
_TITLES = {"loss": "training loss", VALIDATION_LOSS: "validation loss", "samples_per_second": "samples/s"}
_LOSSES = ("loss", VALIDATION_LOSS)
_NOT_DRAWN = ("_rank",)  # retrieval's, which recall says better
# Okabe and Ito's colours: told apart in print and by colour-blind eyes. The dashes go on where they end.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES: tuple[Dashes, ...] = ("-", "--", "-.", ":")
_GREY = "0.35"
_COLUMNS = 3  # recalls at 1, 5 and 10 are one row
_FEW_PANELS = 4  # beside each other two and two
_LEGEND_COLUMNS = 3
_SMOOTHED_POINTS = 100


@dataclass(frozen=True)
class Plot:
    """A picture that was written, and what it shows."""

    path: Path
    runs: tuple[str, ...]
    panels: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the path and the names of runs and panels."""
        return {"path": str(self.path), "runs": list(self.runs), "panels": list(self.panels)}

    def lines(self) -> str:
        """Return one line."""
        return f"{self.path}: {'; '.join(self.panels)} of {', '.join(self.runs)}"


def plot_curves(runs: list[Path], out: Path) -> Plot:
    """Draw training loss, speed, and every evaluation of the run directories `runs` into the picture `out`.

    Lines are what the runs logged, rings the results of evaluating their checkpoints, grey dots chance. The
    name of `out` ends in .png (200 dots an inch) or .svg. Raises EvaluationError for another ending, for no
    run, for what is no picture at `out`, and as `read_run` does.
    """
    if out.suffix.lower() not in PICTURE_SUFFIXES:
        raise EvaluationError(f"{out}: expected a name that ends in {' or '.join(PICTURE_SUFFIXES)}")
    if not runs:
        raise EvaluationError("no run to plot; give one or more run directories")
    _refuse_what_is_no_picture(out)
    curves = [read_run(run) for run in runs]
    figure = curves_figure(curves)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replaced(out) as temporary:
        figure.savefig(temporary, format=out.suffix.lower()[1:], dpi=_DOTS_PER_INCH)
    panels = tuple(axes.get_title() for axes in figure.axes)
    return Plot(out, tuple(run.label for run in curves), panels)


def _refuse_what_is_no_picture(out: Path) -> None:
    if not out.exists():
        return
    start = b""
    if out.is_file():
        with out.open("rb") as stream:
            start = stream.read(2000)
    if not start.startswith(b"\x89PNG") and b"<svg" not in start:
        raise EvaluationError(
            f"{out}: expected a new name, or a picture to replace, found something else there; "
            "give the plot another name"
        )


def curves_figure(runs: list[RunCurves]) -> Figure:
    """The figure of `plot_curves`: one panel for each thing measured, one colour for each run."""
    panels = _panels(runs)
    if not panels:
        raise EvaluationError("nothing to plot: the runs logged neither a loss nor an evaluation")
    columns = min(_COLUMNS if len(panels) > _FEW_PANELS else 2, len(panels))
    rows = math.ceil(len(panels) / columns)
    legend_rows = math.ceil((len(runs) + 1) / _LEGEND_COLUMNS)
    figure = Figure(figsize=(4.4 * columns, 2.9 * rows + 0.25 * legend_rows), layout="constrained")
    FigureCanvasAgg(figure)
    first: Axes | None = None
    for place, name in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place, sharex=first)
        first = first or axes
        _draw_panel(axes, name, runs)
    _draw_legend(figure, runs)
    return figure


def _panels(runs: list[RunCurves]) -> list[str]:
    """The figures to draw: losses, speed, recalls in each direction, then the rest by name."""
    found = set().union(*(run.logged.keys() & _TITLES.keys() | run.evaluations for run in runs))
    recalls = [name for name in found if RECALL.fullmatch(name)]
    recalls.sort(key=lambda name: (name.partition("_R@")[0], int(name.partition("_R@")[2])))
    first = [name for name in (*_TITLES, *recalls) if name in found]
    return first + sorted(name for name in found - {*first} if not name.endswith(_NOT_DRAWN))


def _draw_panel(axes: Axes, name: str, runs: list[RunCurves]) -> None:
    for number, run in enumerate(runs):
        if name in run.logged:
            _draw_line(axes, number, run.logged[name], marked=name in run.evaluations)
        if name in run.results:
            samples, values = _sorted_points(run.results[name])
            axes.plot(
                samples,
                values,
                linestyle="none",
                marker="o",
                markersize=8,
                fillstyle="none",
                color=_colour(number),
            )
    shown = [run for run in runs if name in run.logged or name in run.results]
    for chance in sorted({run.chance[name] for run in shown if name in run.chance}):
        axes.axhline(chance, color=_GREY, linestyle=(0, (1, 2)), linewidth=1.2)
        axes.annotate(
            f"chance {chance:.2%}" if _is_share(name) else f"guessing {chance:.2f}",
            (1, chance),
            (-2, 2),
            ("axes fraction", "data"),
            "offset points",
            ha="right",
            va="bottom",
            fontsize=7,
            color=_GREY,
        )
    axes.set_title(_title(name), fontsize=10, parse_math=False)
    axes.set_xlabel("samples seen", fontsize=9)
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    if _is_share(name):
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    if name not in _LOSSES:
        axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_line(axes: Axes, number: int, points: dict[int, float], *, marked: bool) -> None:
    samples, values = _sorted_points(points)
    if len(values) > _SMOOTHED_POINTS:
        axes.plot(samples, values, linewidth=0.6, alpha=0.25, color=_colour(number))
        values = _smoothed(values, len(values) // 50)
    marker = "." if marked or len(values) == 1 else ""
    axes.plot(samples, values, linewidth=1.5, linestyle=_dashes(number), marker=marker, color=_colour(number))


def _draw_legend(figure: Figure, runs: list[RunCurves]) -> None:
    handles = [
        Line2D([], [], linestyle=_dashes(number), linewidth=2, color=_colour(number))
        for number in range(len(runs))
    ]
    # Matplotlib drops a label with an underscore in front.
    labels = [f"\N{ZERO WIDTH SPACE}{run.label}" if run.label.startswith("_") else run.label for run in runs]
    if any(run.results for run in runs):
        handles.append(
            Line2D([], [], linestyle="none", marker="o", markersize=8, fillstyle="none", color=_GREY)
        )
        labels.append("checkpoint evaluated")
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=_LEGEND_COLUMNS, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _dashes(number: int) -> Dashes:
    return _DASHES[number // len(_COLOURS) % len(_DASHES)]


def _sorted_points(points: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    samples = sorted(points)
    return np.array(samples), np.array([points[x] for x in samples])


def _smoothed(values: np.ndarray, window: int) -> np.ndarray:
    # The mean over `window` points on each side; at the ends, over those that there are.
    kernel = np.ones(2 * window + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _title(name: str) -> str:
    recall = RECALL.fullmatch(name)
    if recall:
        return f"{recall[1].replace('_', ' ')}, recall at {recall[2]}"
    return _TITLES.get(name) or name.replace("-zeroshot-val-top", ", zero-shot top-")


def _is_share(name: str) -> bool:
    return name.endswith(("top1", "top5")) or RECALL.fullmatch(name) is not None
