import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from clipkit.errors import EvaluationError
from clipkit.evaluate.robustness_plot import plot_robustness
from clipkit.evaluate.scaling import Axis, Point, SetScaling, fit, scalings
from clipkit.evaluate.scaling_plot import plot_scaling, scaling_figure
from clipkit.evaluate.scores import read_series
from tests.evaluate.scored import V2, result, write_results

AT_ZERO = "left out at 0 samples, which have no place on a log scale"
LAW = (1.3, -0.05)  # of the error, by samples


def top1(samples: float) -> float:
    return float(1 - LAW[0] * samples ** LAW[1])


def trained(run: Path, epoch: int, epochs: int = 2, model: str = "RN50", **data: Any) -> Path:
    """A run of `epochs` epochs that was evaluated after each, and lies on the law at its end."""
    write_results(
        run,
        [
            result("imagenet", top1(epoch) - (epochs - n) / 100, n * epoch, model=model)
            for n in range(epochs + 1)
        ],
    )
    (run / "config.json").write_text(json.dumps({"model": model, "data": {"samples": epoch, **data}}))
    return run


def sets_of(runs: list[Path], axis: Axis) -> tuple[list[SetScaling], list[str]]:
    series, notes = read_series(runs)
    return scalings(series, axis, notes), list(dict.fromkeys(notes))


def test_the_law_of_points_on_a_law_is_that_law() -> None:
    law = fit([Point(n, top1(n)) for n in (10_000, 100_000, 700_000, 9_000_000)], "four")
    assert law is not None
    assert (law.factor, law.exponent) == pytest.approx(LAW)
    assert law.standard_error == pytest.approx(0, abs=1e-9)
    assert law.r2 == pytest.approx(1)
    assert law.top1(10**9) == pytest.approx(top1(10**9))


def test_the_exponents_standard_error_is_the_spread_of_exponents() -> None:
    """Beside draws: 4,000 sets of eight points with noise in the logarithm of the error."""
    random, samples = np.random.default_rng(0), np.geomspace(1e5, 1e8, 8)
    laws = []
    for _ in range(4000):
        errors = LAW[0] * samples ** LAW[1] * np.exp(random.normal(0, 0.01, 8))
        laws.append(fit([Point(int(n), 1 - e) for n, e in zip(samples, errors, strict=True)], "noisy"))
    exponents = [law.exponent for law in laws if law]
    told = np.sqrt(np.mean([law.standard_error**2 for law in laws if law]))
    assert len(exponents) == 4000
    assert told == pytest.approx(np.std(exponents), rel=0.05)


def test_too_few_points_have_no_law() -> None:
    assert fit([], "none") is None
    assert fit([Point(10, 0.1), Point(100, 0.2)], "two") is None
    assert fit([Point(10, 0.1), Point(10, 0.2), Point(100, 0.2), Point(100, 0.3)], "two kinds") is None
    assert fit([Point(10, 0.1), Point(100, 0.2), Point(1000, 1.0)], "one without an error") is None
    flat = fit([Point(n, 0.0) for n in (10, 100, 1000)], "nothing learned")
    assert flat is not None and (flat.exponent, flat.r2) == (0.0, 1.0)


@pytest.mark.parametrize(
    "samples", [(12_800_000, 12_800_512, 12_801_024), (2**53, 2**53 - 1, 2**53 - 2), (10, 1000, 1001)]
)
def test_numbers_of_samples_that_hardly_differ_have_no_law(tmp_path: Path, samples: tuple[int, ...]) -> None:
    runs = [
        write_results(tmp_path / f"r{place}", [result("imagenet", 0.1 + place / 50, each)])
        for place, each in enumerate(samples)
    ]
    (found,), _ = sets_of(runs, "seen")
    assert (found.laws, len(found.no_fit)) == ([], 1)
    assert "no fit" in plot_scaling(runs, tmp_path / "out.png").lines()


def test_a_law_that_no_float_holds_is_none() -> None:
    errors = (1.0, 1e-8, 2e-16)
    assert fit([Point(10**9 * 5**n // 4**n, 1 - error) for n, error in enumerate(errors)], "steep") is None


def test_runs_of_one_model_are_fitted_by_their_last_checkpoints(tmp_path: Path) -> None:
    runs = [trained(tmp_path / f"r{n}", n) for n in (100_000, 1_000_000, 10_000_000)]
    runs += [trained(tmp_path / f"vit{n}", n, model="ViT-B/32") for n in (100_000, 1_000_000)]
    (found,), notes = sets_of(runs, "used")
    assert notes == [f"{run.name}: {AT_ZERO}" for run in runs]
    (law,) = found.laws
    assert (law.name, law.runs, law.low, law.high) == ("RN50, 3 runs", 3, 100_000, 10_000_000)
    assert (law.factor, law.exponent) == pytest.approx(LAW)
    assert found.no_fit == [
        "ViT-B/32: no fit, it needs 3 runs, or checkpoints of a run, with clearly different numbers of "
        "samples (each 1.25 times the one before) and errors that a law can follow"
    ]
    (seen,), _ = sets_of(runs[:3], "seen")
    assert [(law.low, law.high) for law in seen.laws] == [(200_000, 20_000_000)]


def test_one_run_is_fitted_by_its_checkpoints_and_not_extrapolated(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", 100_000, epochs=5)
    (found,), _ = sets_of([run], "seen")
    (law,) = found.laws
    assert (law.name, law.points, law.runs) == ("run, its checkpoints", 5, 1)  # 0 samples have no logarithm
    figure = scaling_figure([found], "seen")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    dashed = [
        line for line in axes.get_lines() if line.get_linestyle() == "--" and line.get_color() == "black"
    ]
    assert dashed == []
    said = plot_scaling([run], tmp_path / "out.png").lines()
    assert "checkpoints of one run tell nothing of a longer run" in said
    (used,), _ = sets_of([run], "used")
    assert [len(each.points) for each in used.runs] == [1]
    assert (used.laws, len(used.no_fit)) == ([], 1)


def test_what_tells_no_number_of_samples_is_left_out_and_told(tmp_path: Path) -> None:
    bare = write_results(tmp_path / "bare", [result("imagenet", 0.3)])
    model = write_results(tmp_path / "m", [result("imagenet", 0.3, None, checkpoint="RN50.pt")])
    mixed = trained(tmp_path / "mixed", 1000, epochs=3, shares=["1/2", "1/2"])
    (found,), notes = sets_of([bare, model, mixed], "used")
    assert [(each.run, each.points[-1].samples) for each in found.runs] == [("mixed", 1000)]
    assert notes == [
        "bare: left out, nothing tells how many samples its data set has",
        "RN50: left out, its results do not say how many samples it has seen",
        f"mixed: {AT_ZERO}",
        "mixed: left out after its first epoch, of several data sets nothing tells how many different "
        "samples were used",
    ]
    with pytest.raises(EvaluationError, match=r"nothing to plot.*nothing tells how many samples"):
        plot_scaling([bare], tmp_path / "out.png", axis="used")
    assert not (tmp_path / "out.png").exists()


def test_subsets_other_pictures_and_tuned_models_are_not_mixed(tmp_path: Path) -> None:
    lines = [result("imagenet", 0.3), result("imagenet", 0.5, partial=True, images=500)]
    lines += [result(V2, 0.25), result("imagenet", 0.9, kind="fine-tuned")]
    other = write_results(tmp_path / "other", [result(V2, 0.26, files_sha256="x", templates_sha256="y")])
    found, notes = sets_of([write_results(tmp_path / "run", lines), other], "seen")
    assert [each.name for each in found] == ["imagenet", "imagenet (a subset: 500 pictures)", V2]
    assert [each.runs[0].points[0].top1 for each in found] == [0.3, 0.5, 0.25]
    assert notes == [
        f"{V2}: the results are not all of the same pictures",
        f"{V2}: the results are not all of the same prompts",
    ]


def test_the_picture_has_a_panel_for_each_wanted_set(tmp_path: Path) -> None:
    run = write_results(tmp_path / "run", [result("imagenet", 0.3), result(V2, 0.25)])
    plot = plot_scaling([run], tmp_path / "new" / "out.png")
    assert [each.name for each in plot.sets] == ["imagenet", V2]
    with Image.open(tmp_path / "new" / "out.png") as picture:
        assert (picture.format, picture.width) == ("PNG", 1920)
    plot = plot_scaling([run], tmp_path / "out.svg", only=[V2])
    assert [each["set"] for each in json.loads(json.dumps(plot.as_json()))["sets"]] == [V2]
    assert "<svg" in (tmp_path / "out.svg").read_text()
    with pytest.raises(EvaluationError, match=r"--set places365: expected one of imagenet, imagenetv2"):
        plot_scaling([run], tmp_path / "out.svg", only=["places365"])
    with pytest.raises(EvaluationError, match=r"ends in \.png or \.svg"):
        plot_scaling([run], tmp_path / "out.jpg")
    with pytest.raises(EvaluationError, match="nothing to plot"):
        plot_scaling([write_results(tmp_path / "none", [])], tmp_path / "none.png")


@pytest.mark.parametrize(
    "accuracies", [(0.0,), (1.0,), (0.001,), (0.0, 0.0, 0.0, 0.0), (0.7, 0.71, 0.72, 0.73)]
)
def test_odd_accuracies_are_drawn(tmp_path: Path, accuracies: tuple[float, ...]) -> None:
    lines = [result("imagenet", each, 10**n) for n, each in enumerate(accuracies, start=1)]
    (found,), _ = sets_of([write_results(tmp_path / "run", lines)], "seen")
    figure = scaling_figure([found], "seen")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    (low, high), drawn = axes.get_ylim(), np.asarray(axes.get_lines()[0].get_ydata())
    assert low <= drawn.min() and drawn.max() < high
    text, frame = Text.get_window_extent(axes.texts[-1]), axes.get_window_extent()
    highest = axes.transData.transform((1, drawn.max()))[1]
    assert highest < text.y0 and text.x1 < frame.x1


def test_many_runs_keep_a_panel_that_reads(tmp_path: Path) -> None:
    runs = [
        write_results(tmp_path / f"run-{n}", [result("imagenet", n / 100, n * 1000)]) for n in range(1, 41)
    ]
    (found,), _ = sets_of(runs, "seen")
    figure = scaling_figure([found], "seen")
    figure.draw_without_rendering()
    (axes,), (legend,) = figure.axes, figure.legends
    assert len(legend.get_texts()) == 42
    assert axes.get_window_extent().height > 300
    assert legend.get_window_extent().y0 >= 0


def test_names_that_steer_terminals_or_are_no_text_are_shown_as_escapes(tmp_path: Path) -> None:
    name = os.fsdecode(b"run\xff\x1b[31m\n\xe4\xb8\xad")
    lines = [result("set\ud800\x07" + 500 * "x", 0.3), result("imagenet", 0.3, None, checkpoint="m\x1b.pt")]
    lines += [result(V2, 0.25, None, checkpoint="m\x1b.pt")]
    run = write_results(tmp_path / name, lines)
    for suffix in ("png", "svg"):
        plot = plot_scaling([run], tmp_path / f"out.{suffix}")
        robustness = plot_robustness([run], tmp_path / f"robustness.{suffix}")
        said = plot.lines() + robustness.lines()
        assert "run\\udcff\\x1b[31m 中" in said and "set\\ud800\\x07xx" in said and "m\\x1b" in said
        assert "\x1b" not in said and said.encode()
    ElementTree.parse(tmp_path / "out.svg")
    ElementTree.parse(tmp_path / "robustness.svg")


def test_of_results_of_the_same_samples_the_newest_is_shown_and_the_others_are_told(tmp_path: Path) -> None:
    newest = result(V2, 0.25, date="2026-11-02T00:00:00+00:00", templates=7)
    older = result(V2, 0.26, date="2026-11-01T00:00:00+00:00")
    series, notes = read_series([write_results(tmp_path / "run", [newest, older])])
    (found,) = scalings(series, "seen", notes)
    assert [point.top1 for point in found.runs[0].points] == [0.25]
    assert notes[0] == (
        f"run: on {V2} at 1,000,000 samples left out 26.00% with 80 templates of 2026-11-01T00:00:00+00:00, "
        "shown is 25.00% with 7 templates of 2026-11-02T00:00:00+00:00"
    )
