import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from clipkit.errors import EvaluationError
from clipkit.evaluate.curves import read_run
from clipkit.evaluate.plots import curves_figure, plot_curves

TOP1, TOP5, CHANCE = (f"emoji-zeroshot-val-{figure}" for figure in ("top1", "top5", "chance"))


def write_run(run: Path, steps: int = 20) -> Path:
    run.mkdir(parents=True)
    lines: list[dict[str, Any]] = [
        {"step": 0, "samples": 0, "epoch": 0, TOP1: 0.001, TOP5: 0.004, CHANCE: 0.001}
    ]
    for step in range(1, steps + 1):
        lines.append(
            {"step": step, "samples": step * 64, "epoch": step / 10, "loss": 4 * math.exp(-step / 10)}
            | {
                "lr": 1e-3,
                "logit_scale": 14.3,
                "grad_norm": 1.0,
                "samples_per_second": 200.0,
                "data_wait": 0.01,
            }
        )
    lines.append({"step": steps, "samples": steps * 64, "epoch": 2, TOP1: 0.05, TOP5: 0.12, CHANCE: 0.001})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {"kind": "zero-shot", "set": "emoji", "samples": 640, "top1": 0.03, "top5": 0.1, "chance": 0.001}
    (run / "results.jsonl").write_text(json.dumps(result) + "\n")
    return run


def test_reads_a_runs_curves(tmp_path: Path) -> None:
    curves = read_run(write_run(tmp_path / "first"))
    assert curves.label == "first"
    assert len(curves.logged["loss"]) == 20
    assert curves.logged["loss"][64] == pytest.approx(4 * math.exp(-0.1))
    assert curves.logged[TOP1] == {0: 0.001, 1280: 0.05}
    assert curves.results == {TOP1: {640: 0.03}, TOP5: {640: 0.1}}
    assert curves.chance == {TOP1: 0.001, TOP5: 0.005}
    assert curves.evaluations == {TOP1, TOP5}


def test_after_an_interruption_the_later_line_stands(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 3, "samples": 192, "epoch": 0.3, "loss": 9.0}\n{"step": 4, "samp')
    assert read_run(run).logged["loss"][192] == 9.0


def test_other_results_are_passed_over(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with (run / "results.jsonl").open("a") as results:
        results.write('{"kind": "retrieval", "set": "emoji", "samples": 1, "top1": 1.0}\n')
        results.write('{"kind": "zero-shot", "set": "emoji", "samples": null, "top1": 1.0}\n')
    assert read_run(run).results[TOP1] == {640: 0.03}


def test_results_on_a_subset_are_left_out_and_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    subset = {"kind": "zero-shot", "set": "emoji", "samples": 640, "top1": 0.9, "chance": 0.5}
    with (run / "results.jsonl").open("a") as results:
        results.write(2 * (json.dumps(subset | {"partial": True}) + "\n"))
    curves = read_run(run)
    assert (curves.results[TOP1], curves.chance[TOP1]) == ({640: 0.03}, 0.001)
    plot = plot_curves([run], tmp_path / "out.png")
    said = "run: left out a result on emoji, a subset"
    assert (plot.lines().splitlines()[1:], plot.as_json()["notes"]) == ([said], [said])


def test_the_figure_shows_every_run_and_figure(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, steps)) for name, steps in [("one", 20), ("_two_$x$", 200)]]
    figure = curves_figure(runs)
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels) == ["training loss", "samples/s", "emoji, zero-shot top-1", "emoji, zero-shot top-5"]
    drawn = panels["training loss"].get_lines()
    assert len(drawn) == 3  # the long run also has its smoothed line
    assert np.asarray(drawn[0].get_xdata()).tolist() == [64 * step for step in range(1, 21)]
    raw, smooth = np.asarray(drawn[1].get_ydata()), np.asarray(drawn[2].get_ydata())
    assert smooth[100] == pytest.approx(raw[96:105].mean())
    assert smooth[0] == pytest.approx(raw[:5].mean())
    heights = [
        float(np.asarray(line.get_ydata())[0]) for line in panels["emoji, zero-shot top-5"].get_lines()
    ]
    assert heights == [0.004, 0.1, 0.004, 0.1, 0.005]  # logged and evaluated, of both runs, then chance
    (legend,) = figure.legends
    assert [text.get_text().strip("\u200b") for text in legend.get_texts()] == [
        "one",
        "_two_$x$",
        "checkpoint evaluated",
    ]
    figure.draw_without_rendering()


def test_validation_figures_have_their_panels_in_order_and_their_chance(tmp_path: Path) -> None:
    """As a run logs them with --val-shards, beside one without."""
    run, plain = write_run(tmp_path / "run"), write_run(tmp_path / "plain")
    (run / "config.json").write_text('{"batch_size": 64}')
    recalls = {f"{way}_R@{k}": 0.01 * k for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)}
    figures = {"clip_val_loss": 3.0, **recalls, "image_to_text_median_rank": 9.0, "num_samples": 500}
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": 20, "samples": 1280, "epoch": 2} | figures) + "\n")
    curves = [read_run(plain), read_run(run)]
    assert curves[1].chance["image_to_text_R@5"] == 0.01
    assert curves[1].chance["loss"] == curves[1].chance["clip_val_loss"] == math.log(64)
    panels = {axes.get_title(): axes for axes in curves_figure(curves).axes}
    assert list(panels) == [
        "training loss",
        "validation loss",
        "samples/s",
        *(f"image to text, recall at {k}" for k in (1, 5, 10)),
        *(f"text to image, recall at {k}" for k in (1, 5, 10)),
        *(f"emoji, zero-shot top-{k}" for k in (1, 5)),
    ]
    said = [[each.get_text() for each in axes.texts] for axes in panels.values()]
    assert said[:4] == [["guessing 4.16"], ["guessing 4.16"], [], ["chance 0.20%"]]


def test_settings_that_cannot_be_read_cost_a_line_of_guessing_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for settings in ("{", "[]", '{"batch_size": "many"}', '{"batch_size": 0}'):
        (run / "config.json").write_text(settings)
        assert "loss" not in read_run(run).chance


def test_png_and_svg_by_name(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    plot = plot_curves([run], tmp_path / "new" / "curves.png")
    assert plot.runs == ("run",)
    assert plot.panels == ("training loss", "samples/s", "emoji, zero-shot top-1", "emoji, zero-shot top-5")
    assert plot.as_json()["path"] in plot.lines()
    with Image.open(tmp_path / "new" / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1500
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or []}
    assert (0x00, 0x72, 0xB2) in colours  # the first run's line
    plot_curves([run], tmp_path / "curves.SVG")
    assert ElementTree.parse(tmp_path / "curves.SVG").getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_only_pictures_are_replaced(tmp_path: Path) -> None:
    run, notes = write_run(tmp_path / "run"), tmp_path / "notes.svg"
    notes.write_text("three years of work")
    with pytest.raises(EvaluationError, match="a picture to replace, found something else"):
        plot_curves([run], notes)
    assert notes.read_text() == "three years of work"
    for name in ("curves.png", "curves.svg"):
        plot_curves([run], tmp_path / name)
        plot_curves([run], tmp_path / name)


def test_a_run_without_metrics_gets_one_line_and_no_picture(tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    with pytest.raises(EvaluationError, match=r"no metrics\.jsonl; expected the directory of a training run"):
        plot_curves([write_run(tmp_path / "good"), tmp_path / "none"], out)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").write_text("")
    with pytest.raises(EvaluationError, match="has not logged a step yet"):
        plot_curves([tmp_path / "empty"], out)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    with pytest.raises(EvaluationError, match=r"empty: left out, .*; begun: left out, "):
        plot_curves([tmp_path / "empty", tmp_path / "begun"], out)
    (tmp_path / "empty" / "metrics.jsonl").write_text('{"samples": 1, "lr": 0.1}\n')
    with pytest.raises(EvaluationError, match="neither a loss nor an evaluation"):
        plot_curves([tmp_path / "empty"], out)
    with pytest.raises(EvaluationError, match="no run to plot"):
        plot_curves([], out)
    assert not out.exists()


def test_a_run_that_has_just_begun_is_left_out_and_told(tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "metrics.jsonl").write_text("")
    plot = plot_curves([write_run(tmp_path / "first"), tmp_path / "begun"], tmp_path / "out.png")
    assert plot.runs == ("first",)
    assert plot.notes == ("begun: left out, since it has not logged a step yet",)


def test_runs_of_one_name_are_told_apart_and_one_given_twice_is_one(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("a/x/run", "b/x/run", "b/other")]
    plot = plot_curves([*runs, tmp_path / "b" / "x" / ".." / "other"], tmp_path / "out.png")
    assert plot.runs == ("a/x/run", "b/x/run", "other")


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"ends in \.png or \.svg"):
        plot_curves([write_run(tmp_path / "run")], tmp_path / "curves.pdf")


def test_plotting_loads_neither_torch_nor_pyplot() -> None:
    heavy = "('torch', 'matplotlib.pyplot')"
    code = f"import clipkit.evaluate.plots, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_names_and_numbers_that_nothing_can_draw(tmp_path: Path) -> None:
    run = write_run(tmp_path / os.fsdecode(b"run\xff\x1b\xe4\xb8\xad"))
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"samples": 5, "loss": NaN}\n{"samples": 6, "loss": 1' + 400 * "0" + "}\n")
        metrics.write('{"samples": 7, "set\\ud800-zeroshot-val-top1": 0.5}\n')
        metrics.write('{"samples": 1' + 400 * "0" + ', "loss": 1.0}\n')
    assert set(read_run(run).logged["loss"]) == {64 * step for step in range(1, 21)}
    plot = plot_curves([run], tmp_path / "out.svg")
    assert plot.runs == ("run\\udcff\\x1b中",)
    ElementTree.parse(tmp_path / "out.svg")
