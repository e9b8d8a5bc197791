"""The picture of the line: shifted against in-distribution accuracy, a curve through the α's."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from clipkit.atomic import replaced
from clipkit.finetune.line import Point

_DOTS_PER_INCH = 200
_COLUMNS = 3
_LINE, _ENDS = "#0072B2", "#D55E00"  # Okabe and Ito's


def plot_line(points: Sequence[Point], out: Path) -> Path:
    """Draw the line into the picture `out`, .png or .svg: a panel for each shifted set."""
    figure = line_figure(points)
    with replaced(out) as temporary:
        figure.savefig(temporary, format=out.suffix.lower()[1:], dpi=_DOTS_PER_INCH)
    return out


def line_figure(points: Sequence[Point]) -> Figure:
    """The figure of `plot_line`."""
    shifted = len(points[0].results) - 1
    columns = min(_COLUMNS, shifted)
    rows = math.ceil(shifted / columns)
    figure = Figure(figsize=(4.4 * columns, 4.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place in range(1, shifted + 1):
        _draw_panel(figure.add_subplot(rows, columns, place), points, place)
    return figure


def _draw_panel(axes: Axes, points: Sequence[Point], place: int) -> None:
    x = [point.results[0].top1 for point in points]
    y = [point.results[place].top1 for point in points]
    axes.plot(x, y, color=_LINE, linewidth=1.5, marker="o", markersize=4)
    for alpha, marker, name in ((0.0, "*", "zero-shot"), (1.0, "s", "fine-tuned")):
        at = [number for number, point in enumerate(points) if point.alpha == alpha]
        if at:
            axes.plot(
                x[at[0]], y[at[0]], linestyle="none", marker=marker, markersize=10, color=_ENDS, label=name
            )
    for number, point in enumerate(points):
        if 0 < point.alpha < 1:
            axes.annotate(
                f"{point.alpha:g}", (x[number], y[number]), (4, 4), textcoords="offset points", fontsize=7
            )
    axes.set_xlabel(f"{points[0].results[0].name}, top-1", fontsize=9, parse_math=False)
    axes.set_ylabel(f"{points[0].results[place].name}, top-1", fontsize=9, parse_math=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(xmax=1))
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
