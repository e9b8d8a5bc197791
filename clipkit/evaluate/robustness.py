"""The axes of robustness: ImageNet against ImageNetV2 in logits, with the trend and published models.

As in Taori et al. 2020 (arXiv 2007.00644) and figure 13 of the CLIP paper (Radford et al. 2021, arXiv
2103.00020). All accuracies are shares in 0…1.
"""

from collections.abc import Iterable

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from clipkit.evaluate.drawing import GREY, LABEL_SIZE, note, style_axes
from clipkit.evaluate.trend import accuracies, expit, imagenet_trend, logit, published_models

_TICKS = (
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    0.95,
    0.98,
    0.99,
)
_MARGIN = 0.25  # in logits
_NARROWEST = 1.5
_PUBLISHED = (0.02, 0.9)  # holds all of the table
_HELD = 1e-6
# What is named in the picture: the model, its text, and where the text ends, in points from the model:
# beyond y = x, where nothing else is.
_NAMED = {
    "ViT-B-32/datacomp_m_s128m_b4k": ("ViT-B/32, DataComp medium", (-56, 2)),
    "RN50-quickgelu/yfcc15m": ("RN50, YFCC15M", (-56, 10)),
    "RN50-quickgelu/cc12m": ("RN50, CC12M", (-56, 20)),
    "RN50-quickgelu/openai": ("RN50, OpenAI", (-60, 6)),
    "ViT-B-16/openai": ("ViT-B/16, OpenAI", (-58, 8)),
    "ViT-L-14-336/openai": ("ViT-L/14@336, OpenAI", (-56, 10)),
    "ViT-H-14-378-quickgelu/dfn5b": ("ViT-H/14@378, DFN-5B", (-56, 12)),
}


def reference_range(shares: Iterable[float], *, zoom: bool = False) -> tuple[float, float]:
    """The range of both axes that shows `shares`, and the published models too unless `zoom`.

    Shares of 0 and 1, which have no logit, are left out of it.
    """
    shown = [each for each in shares if 0 < each < 1]
    if not zoom or not shown:
        shown += _PUBLISHED
    low, high = logit(max(min(shown), _HELD)), logit(min(max(shown), 1 - _HELD))
    margin = (
        max(_MARGIN, (_NARROWEST - (high - low)) / 2) if zoom else 0 if shown == [*_PUBLISHED] else _MARGIN
    )
    return expit(low - margin), expit(high + margin)


def draw_reference(
    axes: Axes, shown: tuple[float, float] | None = None, *, named: bool = True
) -> dict[str, Artist]:
    """Make `axes` a plot of top-1 on ImageNet (x) against ImageNetV2 matched-frequency (y), both in logits.

    Draws y = x, the trend of models trained on ImageNet (dashed where it is extrapolated), those models, and
    published CLIP models, a few of them `named`. `shown` is the range of both axes, as from
    `reference_range`. Returns what to put into a legend, by its label.
    """
    shown = shown or reference_range(())
    _set_scales(axes, shown)
    style_axes(axes)
    trend = imagenet_trend()
    (equal,) = axes.plot(shown, shown, linestyle=":", linewidth=1.2, color=GREY, zorder=1)
    standard = axes.plot(
        *accuracies(zero_shot=False), linestyle="none", marker=".", markersize=3, color="0.7", zorder=1
    )
    clip = axes.plot(
        *accuracies(zero_shot=True),
        linestyle="none",
        marker="D",
        markersize=4,
        markerfacecolor="white",
        markeredgecolor="0.3",
        markeredgewidth=0.7,
        zorder=2,
    )
    (line,) = axes.plot(*_line(trend.low, trend.high), linewidth=1.6, color="black", zorder=2.5)
    for ends in ((shown[0], trend.low), (trend.high, shown[1])):
        if ends[0] < ends[1]:
            axes.plot(*_line(*ends), linewidth=1.2, linestyle=(0, (5, 3)), color="black", zorder=2.5)
    if named:
        _name_models(axes, shown)
    return {
        f"{trend.models} models trained on ImageNet": standard[0],
        "their trend (dashed: extrapolated)": line,
        "published CLIP models, zero-shot": clip[0],
        "y = x": equal,
    }


def _set_scales(axes: Axes, shown: tuple[float, float]) -> None:
    axes.set_xscale("logit", nonpositive="mask")
    axes.set_yscale("logit", nonpositive="mask")
    axes.set_xlim(*shown)
    axes.set_ylim(*shown)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([*_TICKS]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:.3g}%"))
    axes.set_aspect("equal")
    axes.set_xlabel("top-1 on ImageNet (logit scale)", fontsize=LABEL_SIZE)
    axes.set_ylabel("top-1 on ImageNetV2 matched-frequency (logit scale)", fontsize=LABEL_SIZE)


def _line(low: float, high: float) -> tuple[list[float], list[float]]:
    # Straight in logits; two ends would do, were they not cut by the axes' mask.
    x = [expit(value) for value in np.linspace(logit(low), logit(high), 50)]
    return x, [imagenet_trend().predicted(each) for each in x]


def _name_models(axes: Axes, shown: tuple[float, float]) -> None:
    low, high = shown
    for model in published_models():
        inside = low < model.imagenet < high and low < model.imagenet_v2 < high
        if model.name in _NAMED and inside:
            text, offset = _NAMED[model.name]
            leader = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
            place = (model.imagenet, model.imagenet_v2)
            note(
                axes,
                text,
                place,
                offset,
                ha="right",
                va="center",
                arrowprops={**leader, "relpos": (1, 0.5)},
                clip_on=True,
                zorder=1.5,
            )
