"""`clipkit plot robustness`: runs on ImageNet against ImageNetV2, beside the trend and published models."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipkit.errors import EvaluationError
from clipkit.evaluate.drawing import (
    check_picture,
    colour,
    legend_below,
    legend_columns,
    marker,
    new_figure,
    quoted,
    shortened,
    write_picture,
)
from clipkit.evaluate.pairing import Robustness, paired
from clipkit.evaluate.robustness import draw_reference, reference_range
from clipkit.evaluate.scores import read_series
from clipkit.evaluate.trend import imagenet_trend
from clipkit.tables import Cell, table

_SIDE = 6.4  # inches
_LEGEND_ROW = 0.2
_REFERENCE_LABELS = 4
_MANY_RUNS = 8  # no lines from the trend to so many


@dataclass(frozen=True)
class RobustnessPlot:
    """A picture that was written, the models in it, and what was left out and why."""

    path: Path
    models: tuple[Robustness, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the path, the trend, the models and the notes."""
        return {
            "path": str(self.path),
            "trend": asdict(imagenet_trend()),
            "models": [each.as_json() for each in self.models],
            "notes": list(self.notes),
        }

    def lines(self) -> str:
        """Return a table with a line a model, and what was left out."""
        trend = imagenet_trend()
        lines = [
            f"{self.path}: {len(self.models)} {'model' if len(self.models) == 1 else 'models'}, beside "
            f"logit(V2) = {trend.slope:.3f} logit(ImageNet) {trend.intercept:+.3f} of {trend.models} models "
            f"trained on ImageNet (r {trend.r:.3f})"
        ]
        if self.models:
            header = (
                "run",
                "samples seen",
                "ImageNet",
                "V2",
                "trend's V2",
                "robustness in points, ± 95%",
                "",
            )
            lines.append(table([_row(each) for each in self.models], header))
        return "\n".join([*lines, *self.notes])


def plot_robustness(inputs: Sequence[Path], out: Path) -> RobustnessPlot:
    """Draw the models of run directories and results.jsonl files into the picture `out`.

    Without any it shows the trend and the published models alone.

    The name of `out` ends in .png (200 dots an inch) or .svg. Raises EvaluationError for another ending, for
    what is no picture at `out`, for inputs without a model that was scored on both whole sets, and as
    `read_series` does.
    """
    check_picture(out)
    series, notes = read_series(inputs)
    models = [model for each in series for model in paired(each, notes)]
    notes = list(dict.fromkeys(notes))
    if inputs and not models:
        raise EvaluationError(
            "nothing to plot: expected models with results on all of ImageNet's validation set and of "
            f"ImageNetV2 matched-frequency, found none{quoted(notes)}; run clipkit "
            "evaluate with --imagenet-val and --imagenet-v2"
        )
    notes += [f"{each.name}: not drawn, {_no_logit(each)}" for each in models if not each.has_place]
    write_picture(robustness_figure(models), out)
    return RobustnessPlot(out, tuple(models), tuple(notes))


def robustness_figure(models: Sequence[Robustness]) -> Figure:
    """The figure of `plot_robustness`: a colour and a marker for each run, its last model filled."""
    runs: dict[str, list[Robustness]] = {}
    for each in models:
        runs.setdefault(each.run, []).append(each)
    drawn = {run: [each for each in own if each.has_place] for run, own in runs.items()}
    labels = [_label(own[-1]) for own in runs.values()]
    columns = legend_columns(labels)
    rows = math.ceil((_REFERENCE_LABELS + len(labels)) / columns)
    figure = new_figure(_SIDE, _SIDE + _LEGEND_ROW * rows)
    axes = figure.add_subplot()
    shares = (share for own in drawn.values() for each in own for share in (each.imagenet, each.imagenet_v2))
    legend = draw_reference(axes, reference_range(shares))
    handles: list[Artist] = list(legend.values())
    for number, own in enumerate(drawn.values()):
        if own:
            _draw_run(axes, number, own, stem=len(drawn) <= _MANY_RUNS)
        handles.append(_handle(number))
    legend_below(figure, handles, [*legend, *labels], columns)
    return figure


def _draw_run(axes: Axes, number: int, own: list[Robustness], *, stem: bool) -> None:
    x, y = [each.imagenet for each in own], [each.imagenet_v2 for each in own]
    style: dict[str, Any] = {"color": colour(number), "marker": marker(number), "zorder": 4}
    axes.plot(x[:-1], y[:-1], linestyle="none", markersize=4, fillstyle="none", **style)
    axes.plot(x, y, linewidth=0.8, color=colour(number), zorder=3.5)
    if stem:
        foot = imagenet_trend().predicted(x[-1])
        axes.plot([x[-1]] * 2, [foot, y[-1]], linewidth=0.8, linestyle=":", color=colour(number), zorder=3.5)
    axes.plot(x[-1:], y[-1:], linestyle="none", markersize=7, markeredgecolor="black", **style)


def _handle(number: int) -> Line2D:
    style: dict[str, Any] = {"markersize": 7, "markeredgecolor": "black", "linewidth": 0.8}
    return Line2D([], [], color=colour(number), marker=marker(number), **style)


def _label(last: Robustness) -> str:
    remark = ("", ", extrapolated")[last.extrapolated] + ("", ", V2 set not stated")[not last.stated]
    if not last.has_place:
        remark += ", not drawn"
    return f"{shortened(last.name)}: {last.points()} points{remark}"


def _no_logit(model: Robustness) -> str:
    where = "ImageNet" if model.imagenet in (0, 1) else "ImageNetV2"
    value = model.imagenet if model.imagenet in (0, 1) else model.imagenet_v2
    return f"{value:.0%} on {where} has no place on a logit scale"


def _row(model: Robustness) -> tuple[Cell, ...]:
    remark = ["the trend is extrapolated"] if model.extrapolated else []
    remark += [] if model.stated else ["which V2 set is not stated"]
    shares = (model.imagenet, model.imagenet_v2, imagenet_trend().predicted(model.imagenet))
    return (
        model.name,
        model.samples,
        *(f"{each:.2%}" for each in shares),
        model.points(),
        "; ".join(remark),
    )
