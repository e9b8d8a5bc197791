"""Kept classifiers are those that were computed, bit for bit; what is anything else is computed again."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipkit.evaluate import classifier_cache as module
from clipkit.evaluate.classes import ClassSet
from clipkit.evaluate.classifier_cache import ClassifierCache
from clipkit.evaluate.images import LabelledImages
from clipkit.evaluate.sets import ZeroShotSet, evaluate_sets, no_display
from clipkit.evaluate.zero_shot import build_classifier
from clipkit.model.clip import Clip, build
from clipkit.model.config import named_config
from clipkit.model.tokenizer import Tokenizer
from tests.conftest import picture
from tests.evaluate.listed import listed

MICRO = named_config("ViT-Micro/16@32px")
CLASSES = ClassSet("pets", ("c", "d"), (("cat", "kitten"), ("dog",)), ("a photo of a {}.", "the {}"))
SHA256 = "5" * 64


@pytest.fixture(scope="module")
def model() -> Clip:
    torch.set_num_threads(1)
    return build(MICRO, seed=5).eval()


@pytest.fixture(scope="module")
def weights(model: Clip) -> torch.Tensor:
    return build_classifier(model, Tokenizer(), CLASSES)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_is_kept_is_what_was_computed(model: Clip, weights: torch.Tensor, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "classifiers"
    cache = ClassifierCache(model, SHA256, folder)
    assert cache.find(CLASSES) is None
    cache.keep(CLASSES, weights)
    found = ClassifierCache(model, SHA256, folder).find(CLASSES)
    assert found is not None and torch.equal(found.view(torch.int32), weights.view(torch.int32))
    assert (found.is_contiguous(), found.device, found.dtype) == (True, weights.device, torch.float32)
    assert only_file(folder).stat().st_size == 32 + 4 * weights.numel()


def test_everything_that_changes_the_numbers_is_in_the_name(
    model: Clip, weights: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ClassifierCache(model, SHA256, tmp_path).keep(CLASSES, weights)
    other_names = replace(CLASSES, names=(("cat", "kitty"), ("dog",)))
    assert ClassifierCache(model, SHA256, tmp_path).find(other_names) is None
    assert ClassifierCache(model, SHA256, tmp_path).find(CLASSES.with_templates(("a {}", "the {}"))) is None
    assert ClassifierCache(model, "6" * 64, tmp_path).find(CLASSES) is None
    other = build(MICRO.model_copy(update={"activation": "gelu"}), seed=5)
    assert other.config != model.config
    assert ClassifierCache(other, SHA256, tmp_path).find(CLASSES) is None
    renamed = replace(CLASSES, name="animals", folders=("x", "y"))
    assert ClassifierCache(model, SHA256, tmp_path).find(renamed) is not None, "prompts are the same"
    for name, value in (("VERSION", "0"), ("_code_sha256", lambda: "0")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, value)
            assert ClassifierCache(model, SHA256, tmp_path).find(CLASSES) is None
    torch.set_num_threads(2)
    try:
        assert ClassifierCache(model, SHA256, tmp_path).find(CLASSES) is None
    finally:
        torch.set_num_threads(1)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def take_anothers(path: Path) -> None:
    """A file of the same size, whole in itself, that belongs to another name."""
    other = path.with_name("0" * 64)
    numbers = bytes(path.stat().st_size - 32)
    path.write_bytes(module._check(other, numbers) + numbers)


@pytest.mark.parametrize(
    "spoil",
    [
        flip_a_bit,
        make_a_pipe,
        make_a_folder,
        make_a_link,
        take_anothers,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"0"),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
    ],
)
def test_damage_is_as_if_nothing_were_there(
    model: Clip, weights: torch.Tensor, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    cache = ClassifierCache(model, SHA256, tmp_path)
    cache.keep(CLASSES, weights)
    path = only_file(tmp_path)
    spoil(path)
    assert cache.find(CLASSES) is None
    cache.keep(CLASSES, weights)
    found = cache.find(CLASSES)
    assert path.is_dir() or (found is not None and torch.equal(found, weights))


@pytest.mark.parametrize("place", ["a file", "no rights"])
def test_a_folder_that_cannot_be_used_is_no_error(
    model: Clip, weights: torch.Tensor, tmp_path: Path, place: str
) -> None:
    folder = Path("/proc/clipkit") if place == "no rights" else tmp_path / "file" / "classifiers"
    (tmp_path / "file").touch()
    cache = ClassifierCache(model, SHA256, folder)
    cache.keep(CLASSES, weights)
    assert cache.find(CLASSES) is None


def test_it_stays_small_and_keeps_what_is_used(model: Clip, weights: torch.Tensor, tmp_path: Path) -> None:
    size = 32 + 4 * weights.numel()
    cache = ClassifierCache(model, SHA256, tmp_path, most_bytes=3 * size)
    sets = [CLASSES.with_templates((f"{n} {{}}",)) for n in range(4)]
    for age, each in enumerate(sets[:3]):
        cache.keep(each, weights)
        newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (time.time() - 1000 + age,) * 2)
    left = tmp_path / ".dead.1.tmp"
    left.touch()
    os.utime(left, (0, 0))
    assert cache.find(sets[0]) is not None  # the oldest is used
    cache.keep(sets[3], weights)
    assert [cache.find(each) is not None for each in sets] == [True, False, True, True]
    assert not left.exists()
    ClassifierCache(model, SHA256, tmp_path, most_bytes=size - 1).keep(sets[1], weights)
    assert cache.find(sets[1]) is None


def test_sets_are_evaluated_alike_with_and_without(model: Clip, tmp_path: Path) -> None:
    paths = []
    for number in range(12):
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(picture(number, 40, 40))
    images = LabelledImages("pets", tmp_path, listed(paths), (0,) * 6 + (1,) * 6)
    titles: list[str] = []

    def run(cache: ClassifierCache | None) -> object:
        titles.clear()

        def display(title: str, total: int, unit: str):  # type: ignore[no-untyped-def]
            titles.append(title)
            return no_display(title, total, unit)

        sets = [ZeroShotSet(CLASSES, images)]
        ((_, result),) = evaluate_sets(model, sets, workers=0, display=display, cache=cache)
        return result, result.predictions.similarity_K.tobytes()

    cache = ClassifierCache(model, SHA256, tmp_path / "cache")
    without = run(None)
    assert run(cache) == without
    assert titles == ["pets classifier", "pets"]
    assert run(cache) == without
    assert titles == ["pets"], "the classifier was found"
