"""From files on disk to lines in results.jsonl, through real checkpoints."""

import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from clipkit._version import VERSION
from clipkit.atomic import write_link
from clipkit.errors import CheckpointError, ClipkitError, EvaluationError
from clipkit.evaluate import run
from clipkit.evaluate.classes import imagenet_classes
from clipkit.evaluate.config import EvaluateConfig
from clipkit.evaluate.evaluation import Evaluation
from clipkit.evaluate.ranks import ALONE
from clipkit.evaluate.run import evaluate, evaluators, zero_shot_sets
from clipkit.evaluate.sets import evaluate_sets, no_display
from clipkit.evaluate.zero_shot import Report
from clipkit.lines import JsonLines
from clipkit.model.checkpoint import Checkpoint, load_checkpoint, load_model, save_checkpoint
from clipkit.model.clip import Clip, build
from clipkit.model.config import named_config
from clipkit.model.convert import convert
from clipkit.model.formats.pytorch import PytorchFile, StoredTensor
from tests.threads import one_thread as one_thread

MICRO = named_config("ViT-Micro/16@32px")
WNIDS = imagenet_classes().folders
TEMPLATES = "a {}\n"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "first" / "checkpoints" / "epoch_2.pt"
    path.parent.mkdir(parents=True)
    content = Checkpoint(
        epoch=2,
        name="first",
        state_dict=build(MICRO, seed=0).state_dict(),
        model_config=MICRO.model_dump(mode="json"),
        step=30,
        position=1920,
    )
    save_checkpoint(path, content)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> EvaluateConfig:
    for label, folder in enumerate(("cat", "dog", "eel")):
        draw(tmp_path / "pets" / folder, label, 4)
    (tmp_path / "classes.csv").write_text("folder,names\ncat,cat|kitten\neel,eel\ndog,dog\n")
    return EvaluateConfig(folder=tmp_path / "pets", classes=tmp_path / "classes.csv", workers=0)


def draw(folder: Path, seed: int, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng([seed, number]).integers(0, 256, (40, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def test_a_folder_is_evaluated_and_recorded(checkpoint: Path, pets: EvaluateConfig) -> None:
    evaluated = evaluate(checkpoint, pets)
    results = checkpoint.parent.parent / "results.jsonl"
    assert evaluated.results_file == results
    (line,) = JsonLines(results).read()
    assert line == json.loads(json.dumps(evaluated.as_json()["results"][0]))
    expected = {
        "kind": "zero-shot",
        "clipkit": VERSION,
        "torch": str(torch.__version__),
        "model": "ViT-Micro/16@32px",
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "epoch": 2,
        "step": 30,
        "samples": 1920,
        "set": "pets",
        "path": str(pets.folder),
        "images": 12,
        "unreadable": [],
        "partial": False,
        "classes": 3,
        "classes_with_images": 3,
        "names_sha256": hashlib.sha256(b'[["cat","kitten"],["eel"],["dog"]]').hexdigest(),
        "templates": 1,
        "templates_sha256": hashlib.sha256(b'["a photo of a {}."]').hexdigest(),
        "top1": evaluated.results[0].top1,
        "top5": 1.0,
        "chance": 1 / 3,
    }
    assert {key: line[key] for key in expected} == expected
    listed = [(i, f"{name}/{n}.png") for i, name in enumerate(("cat", "eel", "dog")) for n in range(4)]
    hashed = "".join(f"{i}\t{name}\t{sha256_below(pets.folder, name)}\n" for i, name in listed)
    assert line["files_sha256"] == hashlib.sha256(hashed.encode()).hexdigest()
    evaluate(checkpoint, pets)
    again = JsonLines(results).read()
    assert len(again) == 2
    assert {**again[1], "date": ""} == {**line, "date": ""}


def sha256_below(folder: Path | None, name: str) -> str:
    assert folder is not None
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_other_pictures_under_the_same_names_are_other_files(
    checkpoint: Path, pets: EvaluateConfig, tmp_path: Path
) -> None:
    def files_sha256(workers: int) -> str:
        (record,) = evaluate(checkpoint, pets.model_copy(update={"workers": workers})).records
        return str(record["files_sha256"])

    before = files_sha256(workers=0)
    assert files_sha256(workers=2) == before
    draw(tmp_path / "pets" / "dog", 3, 1)
    assert files_sha256(workers=0) != before


def test_trainers_evaluators_give_the_same_figures(checkpoint: Path, pets: EvaluateConfig) -> None:
    (measure,) = evaluators(pets)
    evaluated = evaluate(checkpoint, pets)
    assert dict(measure(load_model(checkpoint), ALONE)) == {
        "pets-zeroshot-val-top1": evaluated.results[0].top1,
        "pets-zeroshot-val-top5": 1.0,
        "pets-zeroshot-val-chance": 1 / 3,
    }
    assert evaluators(EvaluateConfig()) == []


def test_imagenet_sets_share_one_classifier_and_say_that_they_are_parts(
    checkpoint: Path, tmp_path: Path
) -> None:
    for label in (0, 10, 2):
        draw(tmp_path / "val" / WNIDS[label], label, 2)
        draw(tmp_path / "v2" / str(label), label, 1)
    (tmp_path / "t.txt").write_text(TEMPLATES)
    config = EvaluateConfig(
        imagenet_val=tmp_path / "val",
        imagenet_v2=tmp_path / "v2",
        templates=tmp_path / "t.txt",
        allow_subset=True,
    )
    titles: list[str] = []

    def display(title: str, total: int, unit: str) -> AbstractContextManager[Report]:
        titles.append(f"{title}: {total} {unit}")
        return no_display(title, total, unit)

    scored = list(evaluate_sets(load_model(checkpoint), zero_shot_sets(config), display=display))
    results = [result for _, result in scored]
    assert titles == ["imagenet classifier: 1000 prompts", "imagenet: 6 images", "imagenetv2: 3 images"]
    assert [(r.name, r.images, r.classes, r.classes_with_images) for r in results] == [
        ("imagenet", 6, 1000, 3),
        ("imagenetv2", 3, 1000, 3),
    ]
    named = replace(results[0], unreadable=("val/x.jpg",))
    described = Evaluation(((scored[0][0], named), scored[1]), (), tmp_path / "results.jsonl", ("c.csv",))
    header, _, first, second, *worst, unreadable, worst_2, _, _, written, last = described.lines().split("\n")
    assert len(worst) == 3
    assert worst_2.startswith("worst of imagenetv2: '") and written == "written: c.csv"
    assert header.split()[:3] == ["set", "images", "classes"]
    assert unreadable == "unreadable, left out of imagenet: val/x.jpg"
    assert last == f"added to {tmp_path / 'results.jsonl'}"
    assert first.split()[-2:] == ["a", "subset"]
    assert second.split()[:3] == ["imagenetv2", "3", "1,000"]
    with pytest.raises(EvaluationError, match="expected 1,000 class folders, found 3"):
        zero_shot_sets(config.model_copy(update={"allow_subset": False}))


def lose_a_class(root: Path) -> None:
    for file in (root / "pets" / "eel").iterdir():
        file.unlink()
    (root / "pets" / "eel").rmdir()


def add_a_class(root: Path) -> None:
    draw(root / "pets" / "fox", 9, 1)


def empty_a_class(root: Path) -> None:
    for file in (root / "pets" / "eel").iterdir():
        file.unlink()


def break_a_picture(root: Path) -> None:
    (root / "pets" / "dog" / "1.png").write_bytes(b"no picture")


def repeat_a_class(root: Path) -> None:
    (root / "classes.csv").write_text("folder,names\ncat,cat\neel,eel\ndog,dog\neel,conger\n")


def break_the_checkpoint(root: Path) -> None:
    path = root / "runs/first/checkpoints/epoch_2.pt"
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lose_a_class, "missing: 'eel'"),
        (add_a_class, "not among the classes: 'fox'"),
        (empty_a_class, "1 class folders hold no picture: 'eel'"),
        (break_a_picture, "dog/1.png"),
        (repeat_a_class, "'eel' stands in more than one row"),
        (break_the_checkpoint, "cut short or damaged"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_no_result(
    checkpoint: Path, pets: EvaluateConfig, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(tmp_path)
    with pytest.raises(ClipkitError) as caught:
        evaluate(checkpoint, pets)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (checkpoint.parent.parent / "results.jsonl").exists()


def test_what_was_asked_for_must_make_sense(checkpoint: Path, pets: EvaluateConfig, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="nothing to evaluate on: give --imagenet-val"):
        evaluate(checkpoint, EvaluateConfig())
    with pytest.raises(ValidationError, match="--folder needs --classes: a CSV folder,names tells"):
        EvaluateConfig(folder=pets.folder)
    with pytest.raises(ValidationError, match="--classes needs --folder"):
        EvaluateConfig(classes=pets.classes)
    with pytest.raises(CheckpointError, match=r"is a ViT-Micro/16@32px, not a ViT-B/32"):
        evaluate(checkpoint, pets, model="ViT-B/32")
    with pytest.raises(CheckpointError, match=r"none\.pt"):
        evaluate(tmp_path / "none.pt", pets)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe is no regular file; expected a model file"):
        evaluate(tmp_path / "pipe", pets)


def test_results_that_could_not_be_written_stop_before_the_work(
    checkpoint: Path, pets: EvaluateConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint.parent.parent / "results.jsonl").mkdir()
    with pytest.raises(
        EvaluationError, match=r"results\.jsonl: cannot be written, Is a directory.*; --results FILE puts"
    ):
        evaluate(checkpoint, pets)
    assert "images" not in capsys.readouterr().err


def test_results_of_a_models_folder_that_cannot_be_written_to_go_elsewhere(
    checkpoint: Path, pets: EvaluateConfig, tmp_path: Path
) -> None:
    (checkpoint.parent.parent / "results.jsonl").mkdir()
    evaluated = evaluate(checkpoint, pets.model_copy(update={"results": tmp_path / "mine.jsonl"}))
    assert evaluated.results_file == tmp_path / "mine.jsonl"
    assert len(JsonLines(tmp_path / "mine.jsonl").read()) == 1


def test_two_sets_of_one_name_are_refused(tmp_path: Path, pets: EvaluateConfig) -> None:
    draw(tmp_path / "v2" / "5", 0, 1)
    assert pets.folder is not None
    renamed = pets.folder.rename(tmp_path / "imagenetv2")
    config = pets.model_copy(update={"folder": renamed, "imagenet_v2": tmp_path / "v2", "allow_subset": True})
    with pytest.raises(EvaluationError, match="two sets are called 'imagenetv2'"):
        zero_shot_sets(config)


def test_a_file_outside_a_run_has_its_results_beside_it(tmp_path: Path, pets: EvaluateConfig) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(build(MICRO, seed=0).state_dict(), weights)
    with pytest.raises(CheckpointError, match="does not say which model it is"):
        evaluate(weights, pets)
    evaluated = evaluate(weights, pets, model="ViT-Micro/16@32px")
    assert evaluated.results_file == tmp_path / "results.jsonl"
    assert "step" not in evaluated.records[0]


def test_a_hugging_face_folder_gives_the_same(checkpoint: Path, pets: EvaluateConfig, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "model", "hf")
    ours, theirs = evaluate(checkpoint, pets), evaluate(tmp_path / "model", pets)
    assert theirs.results[0].top1 == ours.results[0].top1
    assert theirs.results_file == tmp_path / "results.jsonl"
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    printed = subprocess.run(["sha256sum", *names], cwd=tmp_path / "model", capture_output=True, check=True)
    assert theirs.records[0]["checkpoint_sha256"] == hashlib.sha256(printed.stdout).hexdigest()


def after_loading(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen in the moment after the weights are read, as a trainer at work might do it."""

    def load(path: Path, device: str, model: str | None) -> Clip:
        clip = load_model(path, device, model)
        happens()
        return clip

    monkeypatch.setattr(run, "load_model", load)


def test_a_link_that_moves_meanwhile_changes_nothing(
    checkpoint: Path, pets: EvaluateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = checkpoint.with_name("epoch_3.pt")
    save_checkpoint(newer, replace(load_checkpoint(checkpoint), epoch=3, step=45, position=2880))
    latest = checkpoint.with_name("latest")
    latest.symlink_to(checkpoint.name)
    after_loading(monkeypatch, lambda: write_link(latest, newer.name))
    (record,) = evaluate(latest, pets).records
    assert latest.readlink().name == newer.name
    assert (record["checkpoint"], record["step"], record["epoch"]) == (str(checkpoint), 30, 2)
    assert record["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()


def test_a_file_that_is_replaced_meanwhile_is_refused(
    checkpoint: Path, pets: EvaluateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = replace(load_checkpoint(checkpoint), epoch=3, step=45)
    after_loading(monkeypatch, lambda: save_checkpoint(checkpoint, newer))
    with pytest.raises(CheckpointError, match=r"epoch_2\.pt was replaced while it was read"):
        evaluate(checkpoint, pets)
    assert not (checkpoint.parent.parent / "results.jsonl").exists()


def test_a_file_that_vanishes_meanwhile_is_one_line(
    checkpoint: Path, pets: EvaluateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_loading(monkeypatch, checkpoint.unlink)
    with pytest.raises(CheckpointError, match=r"epoch_2\.pt cannot be read: No such file"):
        evaluate(checkpoint, pets)


def test_the_optimizers_state_is_not_read_and_the_weights_once(
    checkpoint: Path, pets: EvaluateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = load_checkpoint(checkpoint)
    states = {"state": {0: {"exp_avg": torch.zeros(12345)}}}
    head = {"weights": torch.zeros(64, 3), "name": "pets", "folders": ["cat", "eel", "dog"]}
    head |= {"names": [["cat", "kitten"], ["eel"], ["dog"]], "templates": ["{}"]}
    save_checkpoint(checkpoint, replace(stored, optimizer=states, extra={"classifier": head}))
    sizes, read = [], PytorchFile.tensor

    def tensor(file: PytorchFile, stored: StoredTensor) -> torch.Tensor:
        sizes.append(stored.shape)
        return read(file, stored)

    monkeypatch.setattr(PytorchFile, "tensor", tensor)
    (record,) = evaluate(checkpoint, pets).records
    assert (record["kind"], record["epoch"], record["step"]) == ("fine-tuned", 2, 30)
    weights = [tuple(value.shape) for value in stored.state_dict.values()]
    assert sorted(sizes) == sorted([*weights, (64, 3)])


def test_names_that_are_no_utf8_are_recorded_as_far_as_they_can_be(
    checkpoint: Path, pets: EvaluateConfig, tmp_path: Path
) -> None:
    folder = (tmp_path / "pets").rename(tmp_path / os.fsdecode(b"p\xe9ts"))
    named = checkpoint.rename(checkpoint.with_name(os.fsdecode(b"\xe9.pt")))
    evaluated = evaluate(named, pets.model_copy(update={"folder": folder}))
    (line,) = JsonLines(evaluated.results_file).read()
    assert (line["set"], line["path"]) == ("p\ufffdts", str(tmp_path / "p\ufffdts"))
    assert line["options"]["folder"] == line["path"] and line["checkpoint"].endswith("/\ufffd.pt")


def test_a_table_is_never_written_over_what_is_read(
    checkpoint: Path, pets: EvaluateConfig, tmp_path: Path
) -> None:
    archive = tmp_path / "pets.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "pets", "pets")
    content = archive.read_bytes()
    with pytest.raises(EvaluationError, match=r"pets\.tar: expected a new file, found one that is needed"):
        evaluate(checkpoint, pets.model_copy(update={"folder": archive, "per_class": archive}))
    assert archive.read_bytes() == content


def test_links_in_a_circle_are_one_line(tmp_path: Path, pets: EvaluateConfig) -> None:
    (tmp_path / "latest").symlink_to("latest")
    with pytest.raises(CheckpointError, match=r"latest cannot be read: "):
        evaluate(tmp_path / "latest", pets)
