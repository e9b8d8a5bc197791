"""`clipkit plot curves`: several runs side by side, over the samples that they had seen."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, PercentFormatter

from clipkit.errors import EvaluationError
from clipkit.evaluate.curves import RECALL, VALIDATION_LOSS, RunCurves, read_runs
from clipkit.evaluate.drawing import (
    GREY,
    LABEL_SIZE,
    LONGEST_TITLE,
    TITLE_SIZE,
    check_picture,
    colour,
    dashes,
    draw_chance,
    legend_below,
    new_figure,
    shortened,
    style_axes,
    write_picture,
)

_TITLES = {"loss": "training loss", VALIDATION_LOSS: "validation loss", "samples_per_second": "samples/s"}
_LOSSES = ("loss", VALIDATION_LOSS)
_NOT_DRAWN = ("_rank",)  # retrieval's, which recall says better
_COLUMNS = 3  # recalls at 1, 5 and 10 are one row
_FEW_PANELS = 4  # beside each other two and two
_LEGEND_COLUMNS = 3
_SMOOTHED_POINTS = 100


@dataclass(frozen=True)
class Plot:
    """A picture that was written, what it shows, and what was left out."""

    path: Path
    runs: tuple[str, ...]
    panels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the path, the names of runs and panels, and the notes."""
        return {
            "path": str(self.path),
            "runs": list(self.runs),
            "panels": list(self.panels),
            "notes": list(self.notes),
        }

    def lines(self) -> str:
        """Return one line, and one for each note."""
        return "\n".join([f"{self.path}: {'; '.join(self.panels)} of {', '.join(self.runs)}", *self.notes])


def plot_curves(runs: list[Path], out: Path) -> Plot:
    """Draw training loss, speed, and every evaluation of the run directories `runs` into the picture `out`.

    Lines are what the runs logged, rings the results of evaluating their checkpoints on whole sets,
    grey dots chance. The name of `out` ends in .png (200 dots an inch) or .svg. Raises EvaluationError
    for another ending, for no run, for what is no picture at `out`, and as `read_runs` does.
    """
    check_picture(out)
    curves, notes = read_runs(runs)
    figure = curves_figure(curves)
    write_picture(figure, out)
    panels = tuple(axes.get_title() for axes in figure.axes)
    notes += dict.fromkeys(note for run in curves for note in run.notes)
    return Plot(out, tuple(run.label for run in curves), panels, tuple(notes))


def curves_figure(runs: list[RunCurves]) -> Figure:
    """The figure of `plot_curves`: one panel for each thing measured, one colour for each run."""
    panels = _panels(runs)
    if not panels:
        raise EvaluationError("nothing to plot: the runs logged neither a loss nor an evaluation")
    columns = min(_COLUMNS if len(panels) > _FEW_PANELS else 2, len(panels))
    rows = math.ceil(len(panels) / columns)
    legend_rows = math.ceil((len(runs) + 1) / _LEGEND_COLUMNS)
    figure = new_figure(4.4 * columns, 2.9 * rows + 0.25 * legend_rows)
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
                color=colour(number),
            )
    shown = [run for run in runs if name in run.logged or name in run.results]
    for chance in sorted({run.chance[name] for run in shown if name in run.chance}):
        text = f"chance {chance:.2%}" if _is_share(name) else f"guessing {chance:.2f}"
        draw_chance(axes, chance, text)
    axes.set_title(shortened(_title(name), LONGEST_TITLE), fontsize=TITLE_SIZE, parse_math=False)
    axes.set_xlabel("samples seen", fontsize=LABEL_SIZE)
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    if _is_share(name):
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    if name not in _LOSSES:
        axes.set_ylim(bottom=0)
    style_axes(axes)


def _draw_line(axes: Axes, number: int, points: dict[int, float], *, marked: bool) -> None:
    samples, values = _sorted_points(points)
    if len(values) > _SMOOTHED_POINTS:
        axes.plot(samples, values, linewidth=0.6, alpha=0.25, color=colour(number))
        values = _smoothed(values, len(values) // 50)
    marker = "." if marked or len(values) == 1 else ""
    axes.plot(samples, values, linewidth=1.5, linestyle=dashes(number), marker=marker, color=colour(number))


def _draw_legend(figure: Figure, runs: list[RunCurves]) -> None:
    handles = [
        Line2D([], [], linestyle=dashes(number), linewidth=2, color=colour(number))
        for number in range(len(runs))
    ]
    labels = [shortened(run.label) for run in runs]
    if any(run.results for run in runs):
        handles.append(
            Line2D([], [], linestyle="none", marker="o", markersize=8, fillstyle="none", color=GREY)
        )
        labels.append("checkpoint evaluated")
    legend_below(figure, handles, labels, _LEGEND_COLUMNS)


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
