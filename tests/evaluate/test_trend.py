import math

import pytest

from clipkit.evaluate.trend import expit, imagenet_trend, logit, published_models


def test_the_trend_is_that_of_the_table() -> None:
    """The three figures of the fit over timm's 696 models."""
    trend = imagenet_trend()
    assert (round(trend.slope, 3), round(trend.intercept, 3), round(trend.r, 3)) == (0.903, -0.470, 0.997)
    assert trend.models == 696
    assert trend.supports(0.7) and not trend.supports(0.18) and not trend.supports(0.9)


def test_the_table_holds_what_was_published() -> None:
    models = {each.name: each for each in published_models()}
    standard = models["maxvit_base_tf_512.in1k"]
    assert (standard.imagenet, standard.imagenet_v2, standard.zero_shot) == (0.86598, 0.7746, False)
    clip = models["ViT-L-14-336/openai"]
    assert (clip.imagenet, clip.imagenet_v2) == pytest.approx((0.7656, 0.7089))
    assert clip.zero_shot
    assert len(models) == len(published_models()) == 696 + 111
    assert all(0 < each.imagenet_v2 < each.imagenet < 1 for each in models.values())


def test_effective_robustness_is_what_lies_above_the_trend() -> None:
    trend = imagenet_trend()
    assert trend.effective_robustness(0.76, trend.predicted(0.76)) == 0
    # ViT-L/14@336: logit(0.7656) is 1.1836, the trend gives 0.5985, which is 64.53%.
    assert trend.effective_robustness(0.7656, 0.7089) == pytest.approx(0.0636, abs=5e-5)
    standard = [each for each in published_models() if not each.zero_shot]
    above = [trend.effective_robustness(each.imagenet, each.imagenet_v2) for each in standard]
    assert abs(sum(above) / len(above)) < 5e-4  # none on average, by its definition


def test_no_accuracy_breaks_the_trend() -> None:
    trend = imagenet_trend()
    assert (trend.predicted(0.0), trend.predicted(1.0)) == (0.0, 1.0)
    assert (logit(0), logit(1), expit(-math.inf), expit(-1e9)) == (-math.inf, math.inf, 0.0, 0.0)
    assert expit(logit(0.3)) == pytest.approx(0.3)
    assert trend.interval_95(0.0, 0.0, 50_000, 10_000) == 0.0


def test_the_interval_is_that_of_drawing_other_pictures() -> None:
    """Beside draws: 20,000 pairs of binomial counts around a model."""
    import numpy as np

    trend, imagenet, v2 = imagenet_trend(), 0.6, 0.5
    random = np.random.default_rng(0)
    x, y = random.binomial(50_000, imagenet, 20_000) / 50_000, random.binomial(10_000, v2, 20_000) / 10_000
    drawn = [trend.effective_robustness(float(a), float(b)) for a, b in zip(x, y, strict=True)]
    expected = 1.96 * float(np.std(drawn))
    assert trend.interval_95(imagenet, v2, 50_000, 10_000) == pytest.approx(expected, rel=0.02)
