"""What does not fit is refused in one line before anything is trained or written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clipkit.cli import app
from clipkit.errors import (
    CheckpointError,
    ClipkitError,
    ConfigError,
    DatasetError,
    EvaluationError,
    TrainError,
)
from clipkit.evaluate.classes import imagenet_classes
from clipkit.finetune.config import FinetuneConfig
from clipkit.finetune.data import read_data
from clipkit.finetune.run import Finetuning, finetune
from clipkit.train.run_directory import RunDirectory
from tests.finetune.pictures import CLASSES, draw, zero_shot_model
from tests.threads import one_thread as one_thread


@dataclass
class Given:
    folder: Path
    options: dict[str, Any]

    def finetune(self, **changes: Any) -> Finetuning:
        config = FinetuneConfig.model_validate(self.options | changes)
        return finetune(self.folder / "zero.pt", config, RunDirectory(self.folder / "run"))


@pytest.fixture
def given(tmp_path: Path) -> Given:
    zero_shot_model(tmp_path / "zero.pt")
    (tmp_path / "classes.csv").write_text(CLASSES)
    options = {"folder": draw(tmp_path / "train", 4, seed=0), "classes": tmp_path / "classes.csv"}
    return Given(
        tmp_path, options | {"batch_size": 3, "epochs": 2, "workers": 0, "log_every": 1, "alphas": "0,1"}
    )


def missing_class(given: Given) -> dict[str, Any]:
    (given.folder / "train" / "red").rename(given.folder / "red")
    return {}


def empty_class(given: Given) -> dict[str, Any]:
    for path in (given.folder / "train" / "red").iterdir():
        path.unlink()
    return {}


def shifted_lacks_a_class(given: Given) -> dict[str, Any]:
    return {"shifted": [draw(given.folder / "pale", 2, seed=1, colours={"red": 0, "green": 1})]}


def unknown_class(given: Given) -> dict[str, Any]:
    draw(given.folder / "train", 1, seed=1, colours={"grey": 0})
    return {}


def repeated_class(given: Given) -> dict[str, Any]:
    (given.folder / "classes.csv").write_text(CLASSES + "red,ruby\n")
    return {}


def one_class(given: Given) -> dict[str, Any]:
    (given.folder / "classes.csv").write_text("folder,names\nred,red\n")
    return {}


def no_classes(given: Given) -> dict[str, Any]:
    return {"classes": None}


def shifted_is_the_training_set(given: Given) -> dict[str, Any]:
    return {"shifted": [given.folder / "train" / ".." / "train"]}


def validation_is_the_training_set(given: Given) -> dict[str, Any]:
    (given.folder / "link").symlink_to(given.folder / "train")
    return {"val_folder": given.folder / "link"}


def one_set_twice(given: Given) -> dict[str, Any]:
    return {"shifted": [draw(given.folder / "pale", 1, seed=1)] * 2}


def imagenet_of_other_classes(given: Given) -> dict[str, Any]:
    return {"imagenet_v2": given.folder}


def nothing_to_hold_out(given: Given) -> dict[str, Any]:
    return {"folder": draw(given.folder / "few", 1, seed=0)}


def no_folder(given: Given) -> dict[str, Any]:
    return {"val_folder": given.folder / "nowhere"}


def too_large_a_batch(given: Given) -> dict[str, Any]:
    return {"batch_size": 512}


def too_long_a_warmup(given: Given) -> dict[str, Any]:
    return {"warmup": 100}


def plot_that_is_no_picture(given: Given) -> dict[str, Any]:
    return {"plot": given.folder / "line.txt"}


@pytest.mark.parametrize(
    ("change", "kind", "found"),
    [
        (missing_class, EvaluationError, "missing: 'red'"),
        (empty_class, EvaluationError, "hold no picture: 'red'"),
        (shifted_lacks_a_class, EvaluationError, "missing: 'blue'"),
        (unknown_class, EvaluationError, "not among the classes: 'grey'"),
        (repeated_class, EvaluationError, "'red' stands in more than one row"),
        (one_class, EvaluationError, "expected classes to tell apart, found one"),
        (
            no_classes,
            EvaluationError,
            "found 3; .*; without --classes they are ImageNet's",
        ),
        (shifted_is_the_training_set, EvaluationError, "--shifted .*found those of --folder"),
        (validation_is_the_training_set, EvaluationError, "--val-folder .*link: .*found those of --folder"),
        (one_set_twice, EvaluationError, "found those of --shifted"),
        (imagenet_of_other_classes, EvaluationError, "--imagenet-v2: expected ImageNet's 1,000 classes"),
        (nothing_to_hold_out, EvaluationError, "none of which can be held out: give --val-folder"),
        (no_folder, EvaluationError, "nowhere"),
        (too_large_a_batch, ConfigError, "choose a smaller --batch-size"),
        (too_long_a_warmup, ConfigError, "warm-up of 100 steps in a run of"),
        (plot_that_is_no_picture, EvaluationError, "expected a name that ends in .png or .svg"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    given: Given,
    change: Callable[[Given], dict[str, Any]],
    kind: type[ClipkitError],
    found: str,
) -> None:
    with pytest.raises(kind, match=found) as raised:
        given.finetune(**change(given))
    assert "\n" not in str(raised.value)
    assert not (given.folder / "run").exists()


def test_a_subset_is_taken_where_it_is_allowed_and_said(given: Given) -> None:
    pale = draw(given.folder / "pale", 2, seed=1, colours={"red": 0, "green": 1})
    result = given.finetune(shifted=[pale], allow_subset=True)
    assert [each["partial"] for each in result.records] == [False, True] * 2
    assert "pale: 4 pictures, a subset" in result.lines()


def test_sets_of_one_name_are_told_apart_by_the_folders_above(given: Given) -> None:
    a, b, c = (draw(given.folder / place / "val", 1, seed=1) for place in ("A", "x/B", "y/B"))
    options = given.options | {"val_folder": a, "shifted": [b, c]}
    data = read_data(FinetuneConfig.model_validate(options))
    assert data.in_distribution.name == "A-val"
    assert [each.name for each in data.shifted] == ["x-B-val", "y-B-val"]


def test_models_at_points_that_nearly_agree_are_kept_apart(given: Given) -> None:
    saved = given.finetune(save_alpha="0.1234567,0.1234568").saved
    assert [path.name for path in saved] == ["alpha_0.1234567.pt", "alpha_0.1234568.pt"]


def test_points_are_taken_once_in_order_and_zero_has_no_sign(given: Given) -> None:
    options = given.options | {"alphas": "1,0.5,0,0.5,1.0,-0.0", "save_alpha": "-0.0"}
    config = FinetuneConfig.model_validate(options)
    assert [repr(point) for point in config.points] == ["0.0", "0.5", "1.0"]
    assert repr(config.save_alpha) == "(0.0,)"


def test_a_fine_tuned_model_is_no_start(given: Given) -> None:
    given.finetune(save_alpha="1")
    config = FinetuneConfig.model_validate(given.options)
    kept = given.folder / "run" / "checkpoints" / "alpha_1.pt"
    with pytest.raises(CheckpointError, match="was fine-tuned already: give the zero-shot model"):
        finetune(kept, config, RunDirectory(given.folder / "other"))


def test_a_run_of_other_settings_is_not_continued(given: Given) -> None:
    given.finetune()
    for changes, named in (
        ({"lr": 1e-4}, "lr was 3e-05, now 0.0001"),
        ({"label_smoothing": 0.1}, "label_smoothing was 0.0, now 0.1"),
        ({"val_share": 0.5}, "data.fingerprint was"),
    ):
        with pytest.raises(TrainError, match=named):
            given.finetune(**changes)
    zero_shot_model(given.folder / "zero.pt", "RN-Mini@64px")
    with pytest.raises(TrainError, match=r"model was 'ViT-Micro/16@32px', now 'RN-Mini@64px'"):
        given.finetune()


def test_a_run_that_diverges_ends_with_what_is_still_good(given: Given) -> None:
    with pytest.raises(TrainError, match="lower --lr"):
        given.finetune(lr=100, grad_clip=1e30, weight_decay=1e6, epochs=40)
    assert not list((given.folder / "run").glob("line.png"))


def test_a_broken_picture_is_replaced_counted_and_named(
    given: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    val = draw(given.folder / "val", 1, seed=3)
    (given.folder / "train" / "red" / "00.png").write_bytes(b"no picture")
    result = given.finetune(val_folder=val)
    assert result.unreadable == 2  # once in each epoch
    assert "red/00.png: its picture cannot be decoded" in capsys.readouterr().err
    assert "2 unreadable pictures, in whose places others were trained on" in result.lines()
    assert "no shifted set, so no plot" in result.lines() and result.plot is None


def test_too_many_broken_pictures_end_it(given: Given) -> None:
    val = draw(given.folder / "val", 1, seed=3)
    (given.folder / "train" / "red" / "00.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"cannot be read, more than the 0\.00% allowed.*red/00\.png"):
        given.finetune(val_folder=val, max_bad=0)


def test_several_processes_are_refused(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process, found 2: start it without torchrun"):
        given.finetune()


def test_imagenets_own_sets_are_known_by_their_classes(tmp_path: Path) -> None:
    wnids = imagenet_classes().folders
    for number, wnid in enumerate(wnids[:4]):  # --allow-subset takes what there is
        for folder, name in (("train", wnid), ("val", wnid), ("v2", f"{number}"), ("own", wnid)):
            (tmp_path / folder / name).mkdir(parents=True)
            (tmp_path / folder / name / "0.jpg").touch()
    config = FinetuneConfig(
        folder=tmp_path / "train",
        imagenet_val=tmp_path / "val",
        imagenet_v2=tmp_path / "v2",
        allow_subset=True,
    )
    data = read_data(config)
    assert data.in_distribution.name == "imagenet" and not data.is_held_out
    assert [each.name for each in data.shifted] == [data.reference]
    assert data.classes == imagenet_classes() and len(data.train) == 4
    other = read_data(config.model_copy(update={"val_folder": tmp_path / "own"}))
    assert other.in_distribution.name == "own"
    assert [each.name for each in other.shifted] == ["imagenet", data.reference]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("--alphas 0,1.5", "--alphas"),
        ("--alphas none", "--alphas"),
        ("--alphas ,", "--alphas"),
        ("--save-alpha -0.1", "--save-alpha"),
        ("--crop-scale 1.0 0.5", "smaller first"),
        ("--imagenet-labels devkit", "needs --imagenet-val"),
        ("--name a/b", "the name of one folder"),
        ("--label-smoothing 1", "--label-smoothing"),
    ],
)
def test_wrong_options_are_bad_usage(words: str, found: str) -> None:
    result = CliRunner().invoke(app, ["finetune", "--checkpoint", "x.pt", "--folder", "y", *words.split()])
    assert result.exit_code == 2 and found in result.output
