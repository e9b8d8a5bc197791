import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from clipkit.errors import EvaluationError
from clipkit.evaluate.pairing import Robustness, paired
from clipkit.evaluate.robustness_plot import plot_robustness, robustness_figure
from clipkit.evaluate.scores import read_series
from clipkit.evaluate.trend import imagenet_trend
from tests.evaluate.scored import V2, both, result, write_results


def models_of(folder: Path, lines: list[dict[str, Any]]) -> tuple[list[Robustness], list[str]]:
    series, notes = read_series([write_results(folder, lines)])
    return [model for each in series for model in paired(each, notes)], notes


def test_models_in_the_order_of_samples_with_their_effective_robustness(tmp_path: Path) -> None:
    lines = [*both(0.6, 0.53, 2_000_000), *both(0.3, 0.25), *both(0.31, 0.26)]  # the last was repeated
    (early, late), notes = models_of(tmp_path / "run", lines)
    assert (early.imagenet, early.imagenet_v2, early.samples) == (0.31, 0.26, 1_000_000)
    assert late.effective_robustness == pytest.approx(0.53 - imagenet_trend().predicted(0.6))
    assert (early.extrapolated, late.extrapolated, late.stated, notes) == (True, False, True, [])
    assert late.points() == "+5.6 ± 1.1"
    assert late.as_json()["effective_robustness_points"] == pytest.approx(5.6, abs=0.05)
    at_zero = imagenet_trend().predicted(0.6) - 1e-9
    assert Robustness("run", 1, 0.6, at_zero).points() == "+0.0 ± 1.1"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"partial": True, "images": 500}, "a subset"),
        ({"classes": 100}, "it has 100 classes, not 1,000"),
        ({"images": 9_000}, "it has 9,000 pictures, not 10,000"),
        ({"set": "imagenetv2-threshold0.7"}, "the trend is that of ImageNetV2's matched-frequency set"),
        ({"set": "imagenetv2", "path": "/d/imagenetv2-top-images-format-val"}, "the trend is that of"),
        ({"images": None, "partial": None}, "it does not say of how many pictures"),
    ],
)
def test_what_is_not_whole_or_another_set_is_left_out(
    tmp_path: Path, changed: dict[str, Any], why: str
) -> None:
    found, notes = models_of(tmp_path / "run", [result("imagenet", 0.6), result(V2, 0.53, **changed)])
    assert found == []
    assert any(note.startswith("run: left out a result on imagenetv2") and why in note for note in notes)
    with pytest.raises(EvaluationError, match=r"nothing to plot.*left out a result"):
        plot_robustness([tmp_path / "run"], tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_unreadable_pictures_belong_to_the_set(tmp_path: Path) -> None:
    lines = [result("imagenet", 0.6, images=49_998, unreadable=["a", "b"]), result(V2, 0.53)]
    assert len(models_of(tmp_path / "run", lines)[0]) == 1


def test_the_v2_set_is_taken_from_the_path_or_marked(tmp_path: Path) -> None:
    old: dict[str, Any] = {"set": "imagenetv2", "path": "/d/imagenetv2-matched-frequency-format-val"}
    (model,), _ = models_of(tmp_path / "said", [result("imagenet", 0.6), result(V2, 0.53, **old)])
    assert model.stated
    old["path"] = "/d/v2"
    (model,), _ = models_of(tmp_path / "unsaid", [result("imagenet", 0.6), result(V2, 0.53, **old)])
    assert (model.stated, model.as_json()["v2_set"]) == (False, "not stated")
    (said,) = robustness_figure([model]).legends
    assert said.get_texts()[-1].get_text() == "unsaid: +5.6 ± 1.1 points, V2 set not stated"


def test_both_results_are_of_the_same_prompts(tmp_path: Path) -> None:
    short: dict[str, Any] = {"templates": 7, "templates_sha256": "short"}
    (model,), notes = models_of(tmp_path / "run", [*both(0.6, 0.53), *both(0.59, 0.52, **short)])
    assert (model.imagenet, notes) == (
        0.6,
        ["run: of several prompts, those with the most templates are shown"],
    )
    lines = [result("imagenet", 0.6), result(V2, 0.52, **short)]
    found, notes = models_of(tmp_path / "mixed", lines)
    assert (found, len(notes)) == ([], 1) and "but of different prompts" in notes[0]


def test_what_was_evaluated_stands_for_what_was_logged(tmp_path: Path) -> None:
    logged = {"kind": "training", "samples": 1_000_000, "imagenet-zeroshot-val-top1": 0.61}
    logged[f"{V2}-zeroshot-val-top1"] = 0.54
    (model,), _ = models_of(tmp_path / "run", [*both(0.6, 0.53), logged])
    assert model.imagenet == 0.6
    (model,), _ = models_of(tmp_path / "logged", [logged])
    assert (model.imagenet, model.imagenet_v2, model.stated) == (0.61, 0.54, True)


def test_checkpoints_of_the_same_samples_are_models_of_their_own(tmp_path: Path) -> None:
    """As those of a fine-tuning's line are."""
    lines = [
        line
        for alpha, imagenet in ((0.2, 0.6), (0.5, 0.63), (0.8, 0.65))
        for line in both(
            imagenet, 0.55, checkpoint=f"/r/checkpoints/alpha_{alpha}.pt", checkpoint_sha256=f"{alpha}"
        )
    ]
    found, notes = models_of(tmp_path / "run", [*lines, *lines[:2]])
    assert ([each.imagenet for each in found], notes) == ([0.6, 0.63, 0.65], [])
    logged = {"kind": "training", "samples": 1_000_000, "imagenet-zeroshot-val-top1": 0.61}
    logged[f"{V2}-zeroshot-val-top1"] = 0.54
    found, _ = models_of(tmp_path / "logged", [*lines, logged])
    assert sorted(each.imagenet for each in found) == [0.6, 0.61, 0.63, 0.65]  # none is known to be it


def test_accuracies_of_none_and_all_have_no_place(tmp_path: Path) -> None:
    run = write_results(
        tmp_path / "run", [*both(0.0, 0.0), *both(1.0, 1.0, 2_000_000), *both(0.5, 0.4, 3_000_000)]
    )
    plot = plot_robustness([run], tmp_path / "out.png")
    assert len(plot.models) == 3
    assert plot.notes == (
        "run: not drawn, 0% on ImageNet has no place on a logit scale",
        "run: not drawn, 100% on ImageNet has no place on a logit scale",
    )
    plot_robustness([write_results(tmp_path / "zero", both(0.0, 0.0))], tmp_path / "zero.png")


def test_the_figure_shows_each_run_and_its_last_models_robustness() -> None:
    names = [f"run-{number}" for number in range(30)] + ["_$x$" + "long" * 20]
    models = [Robustness(name, n, 0.3 + n / 1000, 0.25 + n / 1000) for name in names for n in (1, 2)]
    figure = robustness_figure(models)
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(texts) == 4 + 31
    assert texts[4] == f"run-0: {models[1].points()} points, extrapolated"
    assert texts[-1].startswith("\u200b_$x$longlong") and "…" in texts[-1]
    figure.draw_without_rendering()
    (axes,) = figure.axes
    box, frame = legend.get_window_extent(), figure.bbox
    assert box.y1 < axes.get_window_extent().y0 and box.x0 >= 0 and box.x1 <= frame.x1 and box.y0 >= 0
    assert axes.get_window_extent().height > 0.85 * frame.width  # the legend does not eat the panel
    styles = {
        (line.get_color(), line.get_marker()) for line in axes.get_lines() if line.get_markersize() == 7
    }
    assert len(styles) == 31


def test_names_of_published_models_do_not_overlap() -> None:
    figure = robustness_figure([])
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without their leaders
    frame = axes.get_window_extent()
    assert len(boxes) == 7
    for number, box in enumerate(boxes):
        assert frame.x0 < box.x0 and box.x1 < frame.x1
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_png_svg_and_the_reference_alone(tmp_path: Path) -> None:
    plot = plot_robustness([], tmp_path / "new" / "reference.png")
    assert (plot.models, plot.notes) == ((), ())
    with Image.open(tmp_path / "new" / "reference.png") as picture:
        assert picture.format == "PNG" and picture.width == 1280
        grey = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    assert np.ptp(grey, axis=1).max() == 0  # the reference has no colour: those are the runs'
    run = write_results(tmp_path / "run", both(0.6, 0.53))
    plot = plot_robustness([run], tmp_path / "out.SVG")
    assert ElementTree.parse(tmp_path / "out.SVG").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    told = plot.lines().splitlines()
    assert "slope" not in told[0] and "0.903 logit(ImageNet) -0.470 of 696 models" in told[0]
    assert told[3].split()[:6] == ["run", "1,000,000", "60.00%", "53.00%", "47.40%", "+5.6"]
    assert json.loads(json.dumps(plot.as_json()))["trend"]["models"] == 696


def test_only_pictures_are_written_and_only_over_pictures(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"ends in \.png or \.svg"):
        plot_robustness([], tmp_path / "out.pdf")
    (tmp_path / "notes.png").write_text("three years of work")
    with pytest.raises(EvaluationError, match="found something else there"):
        plot_robustness([], tmp_path / "notes.png")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.png"]


def test_plotting_loads_neither_torch_nor_pyplot() -> None:
    heavy = "('torch', 'matplotlib.pyplot')"
    code = "import clipkit.evaluate.robustness_plot, sys; "
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_checkpoints_of_the_same_samples_are_told_apart_by_their_files(tmp_path: Path) -> None:
    lines = []
    for alpha, imagenet in (("0.5", 0.6), ("1", 0.61)):
        path = f"/runs/a/checkpoints/alpha_{alpha}.pt"
        lines += both(imagenet, 0.53, checkpoint=path, checkpoint_sha256=f"hash of {alpha}")
    (half, whole), _ = models_of(tmp_path / "run", lines)
    assert (half.name, whole.name) == ("run (alpha_0.5)", "run (alpha_1)")
    lines = [line | {"checkpoint": "/runs/a/checkpoints/last.pt"} for line in lines]
    lines = [line | {"checkpoint_sha256": line["checkpoint_sha256"][::-1]} for line in lines]
    assert {each.name for each in models_of(tmp_path / "same", lines)[0]} == {
        "same (last 5.0 fo h)",
        "same (last 1 fo hsa)",
    }
    (once,), _ = models_of(tmp_path / "once", both(0.6, 0.53))
    assert once.name == "once"
