"""`clipkit plot scaling`: zero-shot accuracy over samples seen or used, with a power law of the error."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, PercentFormatter

from clipkit.errors import EvaluationError
from clipkit.evaluate.drawing import (
    LABEL_SIZE,
    LONGEST_TITLE,
    TITLE_SIZE,
    check_picture,
    colour,
    draw_chance,
    legend_below,
    legend_columns,
    marker,
    new_figure,
    note,
    quoted,
    shortened,
    style_axes,
    write_picture,
)
from clipkit.evaluate.scaling import Axis, PowerLaw, RunScaling, SetScaling, scalings
from clipkit.evaluate.scores import read_series
from clipkit.tables import table

_AXIS_TITLES: dict[str, str] = {"seen": "samples seen", "used": "different samples used"}
_BEYOND = 4  # how far the law is drawn past its last point, times that point's samples
_LINE = 62  # characters of text in a panel
_LAWS_TOLD = 4
_LEGEND_ROW = 0.2
_FIT, _EXTRAPOLATED = "fit: 1 - top-1 = a · samples^b", "fit, extrapolated"


@dataclass(frozen=True)
class ScalingPlot:
    """A picture that was written, the accuracies and laws in it, and what was left out and why."""

    path: Path
    axis: Axis
    sets: tuple[SetScaling, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the path, the axis, the sets with their runs and laws, and the notes."""
        return {
            "path": str(self.path),
            "samples": self.axis,
            "sets": [each.as_json() for each in self.sets],
            "notes": list(self.notes),
        }

    def lines(self) -> str:
        """Return a table with each run's last accuracy on each set, then the laws and what was left out."""
        rows = [
            (each.name, run.run, len(run.points), run.points[-1].samples, f"{run.points[-1].top1:.2%}")
            for each in self.sets
            for run in each.runs
        ]
        header = ("set", "run", "points", _AXIS_TITLES[self.axis], "last top-1")
        laws = [f"{each.name}: {_in_words(law)}" for each in self.sets for law in each.laws]
        without = [f"{each.name}: {text}" for each in self.sets for text in each.no_fit]
        return "\n".join([f"{self.path}:", table(rows, header), *laws, *without, *self.notes])


def plot_scaling(
    inputs: Sequence[Path], out: Path, *, axis: Axis = "seen", only: Sequence[str] = ()
) -> ScalingPlot:
    """Draw the zero-shot accuracies of run directories and results.jsonl files into the picture `out`.

    Each set is a panel; `only` names those that are wanted. The name of `out` ends in .png (200 dots an inch)
    or .svg. Raises EvaluationError for another ending, for what is no picture at `out`, for inputs without an
    accuracy, and as `read_series` does.
    """
    check_picture(out)
    series, notes = read_series(inputs)
    sets = scalings(series, axis, notes)
    notes = list(dict.fromkeys(notes))
    names = [each.name for each in sets]
    if not sets:
        raise EvaluationError(
            "nothing to plot: expected runs with zero-shot results after a number of samples, found none"
            + quoted(notes)
        )
    unknown = [each for each in only if each not in names]
    if unknown:
        raise EvaluationError(f"--set {unknown[0]}: expected one of {', '.join(names)}")
    chosen = [each for each in sets if not only or each.name in only]
    write_picture(scaling_figure(chosen, axis), out)
    return ScalingPlot(out, axis, tuple(chosen), tuple(notes))


def scaling_figure(sets: Sequence[SetScaling], axis: Axis) -> Figure:
    """The figure of `plot_scaling`: a panel for each set, a colour and a marker for each run."""
    numbers = {name: n for n, name in enumerate(dict.fromkeys(run.run for each in sets for run in each.runs))}
    columns = min(2, len(sets))
    rows = math.ceil(len(sets) / columns)
    labels = [shortened(name) for name in numbers]
    legend_width = columns * legend_columns(labels)
    legend_rows = math.ceil((len(labels) + 2) / legend_width)
    figure = new_figure(6.4 if columns == 1 else 9.6, 3.9 * rows + _LEGEND_ROW * legend_rows)
    for place, each in enumerate(sets, start=1):
        _draw_panel(figure.add_subplot(rows, columns, place), each, numbers, axis)
    handles: list[Artist] = [
        Line2D([], [], color=colour(n), marker=marker(n), linewidth=0.8) for n in numbers.values()
    ]
    if any(each.laws for each in sets):
        handles.append(Line2D([], [], color="black"))
        labels.append(_FIT)
    if any(law.runs > 1 for each in sets for law in each.laws):
        handles.append(Line2D([], [], color="black", linestyle=(0, (4, 3))))
        labels.append(_EXTRAPOLATED)
    legend_below(figure, handles, labels, legend_width)
    return figure


def _draw_panel(axes: Axes, shown: SetScaling, numbers: dict[str, int], axis: Axis) -> None:
    for run in shown.runs:
        _draw_run(axes, run, numbers[run.run])
    for law in shown.laws:
        _draw_law(axes, law)
    if shown.chance is not None:
        draw_chance(axes, shown.chance, f"chance {shown.chance:.2%}")
    axes.set_title(
        f"{shortened(shown.name, LONGEST_TITLE)}, zero-shot top-1", fontsize=TITLE_SIZE, parse_math=False
    )
    axes.set_xlabel(f"{_AXIS_TITLES[axis]} (log scale)", fontsize=LABEL_SIZE)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    style_axes(axes)
    _set_samples(axes, shown)
    text = _told(shown)
    _set_accuracies(axes, shown, text.count("\n") + 1)
    note(axes, text, (0, 1), (5, -4), xycoords="axes fraction", ha="left", va="top")


def _draw_run(axes: Axes, run: RunScaling, number: int) -> None:
    x, y = [each.samples for each in run.points], [each.top1 for each in run.points]
    style: dict[str, Any] = {"color": colour(number), "marker": marker(number), "zorder": 3}
    axes.plot(x, y, linewidth=0.8, markersize=4, fillstyle="none", **style)
    axes.plot(x[-1:], y[-1:], linestyle="none", markersize=7, markeredgecolor="black", clip_on=False, **style)


def _draw_law(axes: Axes, law: PowerLaw) -> None:
    for low, high, style in ((law.low, law.high, "-"), (law.high, _end(law), (0, (4, 3)))):
        if low == high:
            continue
        x = np.geomspace(low, high, 100)
        axes.plot(x, [law.top1(each) for each in x], linewidth=1, linestyle=style, color="black", zorder=2.5)


def _end(law: PowerLaw) -> int:
    return _BEYOND * law.high if law.runs > 1 else law.high


def _set_samples(axes: Axes, shown: SetScaling) -> None:
    samples = [point.samples for run in shown.runs for point in run.points]
    high = max([1.5 * max(samples), *(_end(law) for law in shown.laws)])
    low = min(samples) / 1.5
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1000 else (1,)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _set_accuracies(axes: Axes, shown: SetScaling, lines: int) -> None:
    """From 0, or from under the lowest where that is far up; with room for lines of text at the top."""
    values = [point.top1 for run in shown.runs for point in run.points]
    values += [max(0.0, law.top1(_end(law))) for law in shown.laws]
    values += [shown.chance] if shown.chance is not None else []
    low = 0.0 if min(values) < 0.5 * max(values) else max(0.0, 1.2 * min(values) - 0.2 * max(values))
    height = max(max(values) - low, 0.002)
    axes.set_ylim(low, low + height * (1.08 + 0.075 * lines))


def _told(shown: SetScaling) -> str:
    told = [_in_short(each) for each in shown.laws] + shown.no_fit
    left = len(told) - _LAWS_TOLD
    told = told[:_LAWS_TOLD] + ([f"and {left} more, which the command prints"] if left > 0 else [])
    return "\n".join(line for each in told for line in textwrap.wrap(each, _LINE))


def _in_short(law: PowerLaw) -> str:
    return f"{shortened(law.name)}: b = {law.exponent:.3f} ± {law.standard_error:.3f}, R² {law.r2:.2f}"


def _in_words(law: PowerLaw) -> str:
    beyond = "it is extrapolated" if law.runs > 1 else "checkpoints of one run tell nothing of a longer run"
    return (
        f"{law.name}: 1 - top-1 = {law.factor:.4g} · samples^{law.exponent:.4f}, the exponent "
        f"± {law.standard_error:.4f} (standard error; {law.points} points, R² {law.r2:.3f}), "
        f"from {law.low:,} to {law.high:,} samples; beyond, {beyond}"
    )
