"""The whole command on small folders: what it trains, measures, keeps and records."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from clipkit.evaluate.config import EvaluateConfig
from clipkit.evaluate.run import evaluate, zero_shot_sets
from clipkit.evaluate.zero_shot import build_classifier
from clipkit.finetune.config import FinetuneConfig
from clipkit.finetune.run import Finetuning, finetune
from clipkit.lines import JsonLines
from clipkit.model.checkpoint import load_checkpoint, load_model
from clipkit.model.convert import convert
from clipkit.model.tokenizer import Tokenizer
from clipkit.train.run_directory import RunDirectory
from tests.finetune.pictures import CLASSES, draw, zero_shot_model
from tests.threads import one_thread as one_thread

FIGURES = ("images", "classes", "chance", "top1", "top1_interval", "top5", "mean_per_class_recall")
SAME = (*FIGURES, "set", "path", "files_sha256", "names_sha256", "templates_sha256", "unreadable", "partial")


class Made(NamedTuple):
    folder: Path
    config: FinetuneConfig
    result: Finetuning

    def zero(self) -> Path:
        return self.folder / "zero.pt"

    def run(self) -> Path:
        return self.folder / "runs" / "colours"

    def kept(self, alpha: str) -> Path:
        return self.run() / "checkpoints" / f"alpha_{alpha}.pt"

    def on(self, name: str) -> EvaluateConfig:
        return EvaluateConfig(folder=self.folder / name, classes=self.folder / "classes.csv", workers=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("finetune")
    zero_shot_model(folder / "zero.pt")
    (folder / "classes.csv").write_text(CLASSES)
    config = FinetuneConfig(
        folder=draw(folder / "train", 16, seed=0),
        classes=folder / "classes.csv",
        val_folder=draw(folder / "val", 8, seed=1),
        shifted=[draw(folder / "pale", 8, seed=2, contrast=15)],
        batch_size=16,
        epochs=4,
        lr=1e-3,
        workers=0,
        log_every=1,
        alphas=(0, 0.25, 1),
        save_alpha=(0, 0.5, 1),
    )
    run = RunDirectory(folder / "runs" / "colours")
    return Made(folder, config, finetune(folder / "zero.pt", config, run))


def records(made: Made, alpha: float) -> dict[str, dict[str, Any]]:
    return {each["set"]: each for each in made.result.records if each["alpha"] == alpha}


def test_every_point_is_measured_on_every_set_and_recorded(made: Made) -> None:
    assert [point.alpha for point in made.result.points] == [0, 0.25, 0.5, 1]
    lines = [each for each in JsonLines(made.result.results_file).read() if each["kind"] == "finetune"]
    assert lines == json.loads(json.dumps(list(made.result.records)))
    assert [(each["alpha"], each["set"], each["role"]) for each in lines] == [
        (alpha, name, role)
        for alpha in (0, 0.25, 0.5, 1)
        for name, role in (("val", "in-distribution"), ("pale", "shifted"))
    ]
    assert {each["checkpoint"] for each in lines} == {str(made.zero())}
    assert made.result.results_file == made.run() / "results.jsonl"
    assert json.loads(json.dumps(made.result.as_json()))["trained_pictures"] == 48


def test_a_record_is_enough_to_repeat_it(made: Made, tmp_path: Path) -> None:
    lines = [each for each in JsonLines(made.result.results_file).read() if each["kind"] == "finetune"]
    last = lines[-1]
    config = FinetuneConfig.model_validate(last["options"])
    assert config == made.config and last["seed"] == made.config.seed
    assert last["trained_path"] == str(made.folder / "train") and last["trained_precision"] == "fp32"
    again = finetune(Path(last["checkpoint"]), config, RunDirectory(tmp_path / "colours")).records[-1]
    assert again.pop("date") >= last.pop("date")
    assert json.loads(json.dumps(again)) == last


@pytest.mark.parametrize("name", ["val", "pale"])
def test_alpha_0_is_the_zero_shot_model(made: Made, name: str) -> None:
    (expected,) = evaluate(made.zero(), made.on(name)).records
    found = records(made, 0)[name]
    assert {key: found[key] for key in SAME} == {key: expected[key] for key in SAME}
    (again,) = evaluate(made.kept("0"), made.on(name)).records
    assert {key: again[key] for key in SAME} == {key: expected[key] for key in SAME}
    assert (expected["kind"], again["kind"]) == ("zero-shot", "fine-tuned")


def test_the_head_at_alpha_0_is_evaluates_classifier(made: Made) -> None:
    clip = load_model(made.zero())
    (val,) = zero_shot_sets(made.on("val"))
    expected_DN = build_classifier(clip, Tokenizer(clip.context_length), val.classes)
    assert torch.equal(head(made.kept("0")), expected_DN)
    assert torch.equal(clip.visual.conv1.weight, weights(made.kept("0"))["visual.conv1.weight"])


def test_alpha_1_is_the_fine_tuned_model(made: Made) -> None:
    last = made.run() / "checkpoints" / "epoch_4.pt"
    assert made.result.checkpoint.resolve() == last.resolve()
    kept, trained = weights(made.kept("1")), weights(last)
    assert kept.keys() == trained.keys() == weights(made.zero()).keys()
    assert all(torch.equal(kept[name], trained[name]) for name in kept)
    assert torch.equal(head(made.kept("1")), head(last))
    (evaluated,) = evaluate(last, made.on("pale")).records
    assert {key: evaluated[key] for key in FIGURES} == {key: records(made, 1)["pale"][key] for key in FIGURES}


def test_points_between_are_arithmetic_on_the_weights(made: Made) -> None:
    zero, half, one = (weights(path) for path in (made.zero(), made.kept("0.5"), made.kept("1")))
    for name in zero:
        tuned = name.startswith("visual.")
        assert torch.equal(half[name], 0.5 * zero[name] + 0.5 * one[name] if tuned else zero[name]), name
        assert tuned or torch.equal(one[name], zero[name]), name
    assert torch.equal(head(made.kept("0.5")), 0.5 * head(made.kept("0")) + 0.5 * head(made.kept("1")))
    assert not torch.equal(half["visual.conv1.weight"], zero["visual.conv1.weight"])
    (evaluated,) = evaluate(made.kept("0.5"), made.on("pale")).records
    expected = records(made, 0.5)["pale"]
    assert {key: evaluated[key] for key in FIGURES} == {key: expected[key] for key in FIGURES}


def test_fine_tuning_raises_the_accuracy_in_distribution(made: Made) -> None:
    zero, one = records(made, 0)["val"], records(made, 1)["val"]
    assert zero["top1"] < 0.6 and one["top1"] > 0.9


def test_a_fine_tuned_model_is_read_by_others_with_the_same_features(made: Made, tmp_path: Path) -> None:
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = load_model(made.kept("0.5")).encode_image(images).detach()
    converted = convert(made.kept("0.5"), tmp_path / "half.pt", "open-clip")
    assert "the source's fine-tuned head is left out" in converted.lines()
    assert "head" not in convert(made.zero(), tmp_path / "zero.pt", "open-clip").lines()
    open_clip.add_model_config(tmp_path / "clipkit-half.json")
    peer = open_clip.create_model("clipkit-half", pretrained=str(tmp_path / "half.pt"))
    found = peer.encode_image(images, normalize=True).detach()
    assert torch.allclose(found, functional.normalize(expected, dim=-1), atol=1e-5)
    convert(made.kept("0.5"), tmp_path / "hf", "hf")
    again = load_model(tmp_path / "hf").encode_image(images).detach()
    assert torch.allclose(again, expected, atol=1e-5)


def test_classes_in_another_order_are_told_apart_by_the_head(made: Made, tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("folder,names\ngreen,green\nred,scarlet|red\nblue,blue\n")
    config = EvaluateConfig(folder=made.folder / "pale", classes=tmp_path / "classes.csv", workers=0)
    (found,) = evaluate(made.kept("1"), config).records
    (same,) = evaluate(made.kept("1"), made.on("pale")).records
    assert found["kind"] == "fine-tuned"
    assert {key: found[key] for key in FIGURES} == {key: same[key] for key in FIGURES}


def test_other_classes_are_told_apart_by_prompts(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "classes.csv").write_text("folder,names\nred,warm\nblue,blue\ngreen,fresh|cool\n")
    config = EvaluateConfig(folder=made.folder / "val", classes=tmp_path / "classes.csv", workers=0)
    (found,) = evaluate(made.kept("1"), config).records
    assert found["kind"] == "zero-shot"
    assert found["head_left_out"] == "it has 3 classes, the set 3, with 1 in common"
    said = f"val: told apart by prompts, not by the model's head: {found['head_left_out']}"
    assert said in capsys.readouterr().err.splitlines()


def test_the_same_command_measures_a_finished_run_again(made: Made) -> None:
    losses = (made.run() / "metrics.jsonl").read_bytes()
    again = finetune(made.zero(), made.config.model_copy(update={"alphas": (1,)}), RunDirectory(made.run()))
    assert (made.run() / "metrics.jsonl").read_bytes() == losses
    fresh = [each for each in again.records if each["alpha"] == 1]
    assert [each["top1"] for each in fresh] == [each["top1"] for each in records(made, 1).values()]


def weights(path: Path) -> dict[str, Tensor]:
    return load_checkpoint(path).state_dict


def head(path: Path) -> Tensor:
    found: Tensor = load_checkpoint(path).extra["classifier"]["weights"]
    return found
