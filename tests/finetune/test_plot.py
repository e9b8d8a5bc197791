"""The picture of the line: what stands where, and what is written beside it."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from clipkit.finetune.line import Point, Score
from clipkit.finetune.plot import line_figure, plot_line

ALPHAS = (0.0, 0.25, 0.5, 1.0)
OWN = (0.6, 0.68, 0.74, 0.78)
SHIFTED = {"imagenetv2": (0.53, 0.6, 0.63, 0.62), "_sketch$": (0.4, 0.44, 0.45, 0.41)}


def points(*shifted: str) -> list[Point]:
    return [
        Point(
            alpha,
            (Score("imagenet", 50, OWN[place]), *(Score(name, 50, SHIFTED[name][place]) for name in shifted)),
        )
        for place, alpha in enumerate(ALPHAS)
    ]


def at(axes: Axes, marker: str) -> list[tuple[float, float]]:
    lines = [each for each in axes.get_lines() if each.get_marker() == marker]
    return [(float(x), float(y)) for line in lines for x, y in np.array(line.get_data()).T]


def test_a_curve_goes_through_the_points_and_its_ends_are_marked() -> None:
    (axes,) = line_figure(points("_sketch$")).axes
    assert at(axes, "o") == [*zip(OWN, SHIFTED["_sketch$"], strict=True)]
    assert at(axes, "*") == [(0.6, 0.4)]
    assert at(axes, "s") == [(0.78, 0.41)]
    assert [text.get_text() for text in axes.texts] == ["0.25", "0.5"]
    assert "imagenet" in axes.get_xlabel() and "_sketch$" in axes.get_ylabel()


def test_no_number_is_printed_on_another() -> None:
    shares = [0.6, 0.7, 0.700001, 0.700002, 0.72, 0.8]
    near = [
        Point(place / 5, (Score("imagenet", 50, share), Score("other", 50, share)))
        for place, share in enumerate(shares)
    ]
    (axes,) = line_figure(near).axes
    assert [text.get_text() for text in axes.texts] == ["0.2", "0.8"]


def test_several_sets_have_a_panel_each_and_one_for_their_mean() -> None:
    mean, first, second = line_figure(points(*SHIFTED)).axes
    assert "mean of the 2 shifted sets" in mean.get_ylabel()
    assert at(mean, "o")[2] == pytest.approx((0.74, (0.63 + 0.45) / 2))
    assert at(first, "o")[2] == (0.74, 0.63) and at(second, "o")[2] == (0.74, 0.45)


def test_imagenet_v2_stands_beside_the_trend_in_logits() -> None:
    with_trend, without = (
        line_figure(points("imagenetv2"), reference).axes[0] for reference in ("imagenetv2", None)
    )
    assert (with_trend.get_xscale(), with_trend.get_yscale()) == ("logit", "logit")
    assert without.get_xscale() == "linear"
    assert at(with_trend, "o") == at(without, "o") and len(at(with_trend, ".")) > 600


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_it_is_written_as_the_name_says(suffix: str, tmp_path: Path) -> None:
    content = plot_line(points(*SHIFTED), tmp_path / f"line.{suffix}", "imagenetv2").read_bytes()
    assert content.startswith(b"\x89PNG") if suffix == "png" else b"_sketch$" in content or b"<svg" in content
