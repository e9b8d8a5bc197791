"""The picture of the line: shifted against in-distribution accuracy, a curve through the α's."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import BboxBase

from clipkit.evaluate.drawing import (
    LABEL_SIZE,
    colour,
    legend_below,
    new_figure,
    note,
    style_axes,
    write_picture,
)
from clipkit.evaluate.robustness import draw_reference, reference_range
from clipkit.finetune.line import Point

_FEW_PANELS = 4  # beside each other two and two
_LEGEND_WIDTH = 5.6
_ENDS = ((0.0, "*", 13, "zero-shot (α 0)"), (1.0, "s", 8, "fine-tuned (α 1)"))


def plot_line(points: Sequence[Point], out: Path, reference: str | None = None) -> Path:
    """Draw the line into the picture `out`, .png or .svg: a panel for each shifted set, and for their mean.

    `reference` names the shifted set that is ImageNetV2, where the other axis is ImageNet: its panel has
    logit axes, published models and their trend.
    """
    write_picture(line_figure(points, reference), out)
    return out


def line_figure(points: Sequence[Point], reference: str | None = None) -> Figure:
    """The figure of `plot_line`."""
    panels = {
        score.name: [point.scores[place].top1 for point in points]
        for place, score in enumerate(points[0].scores[1:], 1)
    }
    if len(panels) > 1:
        panels = {f"mean of the {len(panels)} shifted sets": [p.shifted for p in points]} | panels
    columns = min(2 if len(panels) <= _FEW_PANELS else 3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(max(_LEGEND_WIDTH, 4.4 * columns), 4.2 * rows + (1.1 if columns == 1 else 0.5))
    handles: dict[str, Artist] = {}
    for place, (name, shares) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, columns, place)
        handles |= _draw_panel(axes, points, name, shares, name == reference)
    legend_below(figure, list(handles.values()), list(handles), 2 if columns == 1 else 3)
    _remove_overprinted(figure)
    return figure


def _draw_panel(
    axes: Axes, points: Sequence[Point], name: str, shares: Sequence[float], is_reference: bool
) -> dict[str, Artist]:
    own = [point.scores[0].top1 for point in points]
    handles: dict[str, Artist] = {}
    if is_reference:
        handles |= draw_reference(axes, reference_range([*own, *shares], zoom=True), named=False)
    else:
        _style(axes, points[0].scores[0].name, name)
    (curve,) = axes.plot(own, shares, color=colour(0), linewidth=1.5, marker="o", markersize=4, zorder=3)
    handles["models between, by α"] = curve
    for point, x, y in zip(points, own, shares, strict=True):
        if 0 < point.alpha < 1:
            note(axes, f"{point.alpha:g}", (x, y), (5, -8), zorder=4)
    for alpha, marker, size, label in _ENDS:
        for point, x, y in zip(points, own, shares, strict=True):
            if point.alpha == alpha:
                (handles[label],) = axes.plot(
                    x, y, linestyle="none", marker=marker, markersize=size, color=colour(1), zorder=5
                )
    return handles


def _remove_overprinted(figure: Figure) -> None:
    """Leave out each α that would stand on one written before."""
    figure.draw_without_rendering()  # places everything
    for axes in figure.axes:
        written: list[BboxBase] = []
        for text in list(axes.texts):
            box = text.get_window_extent()
            if any(box.overlaps(other) for other in written):
                text.remove()
            else:
                written.append(box)


def _style(axes: Axes, in_distribution: str, shifted: str) -> None:
    style_axes(axes)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))
    axes.margins(0.08)
    axes.set_xlabel(f"top-1, {in_distribution} (in distribution)", fontsize=LABEL_SIZE, parse_math=False)
    axes.set_ylabel(f"top-1, {shifted}", fontsize=LABEL_SIZE, parse_math=False)
