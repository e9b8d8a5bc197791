import numpy as np
import pytest

from clipkit.evaluate.drawing import new_figure
from clipkit.evaluate.robustness import draw_reference, reference_range
from clipkit.evaluate.trend import expit, imagenet_trend, logit


def test_the_reference_shows_the_trend_the_models_and_y_equal_x() -> None:
    figure = new_figure(6, 6)
    axes = figure.add_subplot()
    legend = draw_reference(axes)
    assert list(legend) == [
        "696 models trained on ImageNet",
        "their trend (dashed: extrapolated)",
        "published CLIP models, zero-shot",
        "y = x",
    ]
    counts = [len(np.asarray(line.get_xdata())) for line in axes.get_lines()]
    assert counts[:3] == [2, 696, 111]
    solid, *dashed = axes.get_lines()[3:]
    trend = imagenet_trend()
    for line in (solid, *dashed):
        points = zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True)
        assert all(trend.predicted(x) == pytest.approx(y) for x, y in points)
    ends = np.asarray(solid.get_xdata())[[0, -1]]
    assert ends == pytest.approx((trend.low, trend.high))
    assert len(dashed) == 2 and all(line.get_linestyle() == "--" for line in dashed)
    figure.draw_without_rendering()


def test_both_axes_are_logits_of_one_scale() -> None:
    figure = new_figure(6, 6)
    axes = figure.add_subplot()
    draw_reference(axes, (0.1, 0.9))
    figure.draw_without_rendering()
    corner, middle, other = axes.transData.transform([(0.1, 0.1), (0.5, 0.5), (0.9, 0.9)])
    assert middle == pytest.approx((corner + other) / 2)
    assert (other - corner)[0] == pytest.approx((other - corner)[1])
    assert "10%" in [label.get_text() for label in axes.get_xticklabels()]


def test_the_range_holds_what_is_shown() -> None:
    assert reference_range([]) == pytest.approx((0.02, 0.9))
    assert reference_range([0.0, 1.0]) == pytest.approx((0.02, 0.9))
    low, high = reference_range([0.004, 0.95])
    assert 0.003 < low < 0.004 and 0.95 < high < 0.97
    low, high = reference_range([0.62, 0.63], zoom=True)
    assert low < 0.5 and high > 0.7 and logit(high) - logit(low) == pytest.approx(1.5)
    assert reference_range([1e-300])[0] > 0
    assert expit(logit(reference_range([1 - 1e-16])[1])) < 1
