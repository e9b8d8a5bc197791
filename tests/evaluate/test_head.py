"""The head of a fine-tuned classifier in a checkpoint: written, read back, and refused where it is none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.errors import CheckpointError
from clipkit.evaluate.classes import ClassSet
from clipkit.evaluate.head import Head, read_head
from clipkit.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from clipkit.model.clip import build
from clipkit.model.config import named_config
from clipkit.model.weights import HEAD_KEY

MICRO = named_config("ViT-Micro/16@32px")
PETS = ClassSet("pets", ("cat", "dog"), (("cat", "kitten"), ("dog",)), ("a photo of a {}.",))
PATH = Path("model.pt")


def head() -> Head:
    return Head(PETS, torch.arange(128, dtype=torch.float32).reshape(64, 2))


def test_it_is_read_from_a_checkpoint_as_it_was(tmp_path: Path) -> None:
    content = Checkpoint(
        1,
        "pets",
        build(MICRO, seed=0).state_dict(),
        MICRO.model_dump(mode="json"),
        extra={HEAD_KEY: head().stored()},
    )
    save_checkpoint(tmp_path / "pets.pt", content)
    found = read_head(load_checkpoint(tmp_path / "pets.pt").extra, MICRO, PATH)
    assert found is not None and found.classes == PETS
    assert torch.equal(found.weights_DN, head().weights_DN)
    assert read_head({}, MICRO, PATH) is None


def columns(names: tuple[tuple[str, ...], ...], own: Head | None = None) -> list[int] | None:
    """Which of its columns the head has for classes of those names, in other folders and prompts."""
    folders = tuple(map(str, range(len(names))))
    found = (own or head()).weights_for(ClassSet("other", folders, names, ("{}",)))
    return None if found is None else found[0].int().tolist()


def test_its_columns_are_put_in_the_order_of_a_sets_classes_by_their_names() -> None:
    assert columns((("cat", "kitten"), ("dog",))) == [0, 1]
    assert columns((("dog",), ("kitten", "cat"))) == [1, 0]


def test_it_is_no_classifier_of_fewer_more_or_other_classes() -> None:
    assert columns((("cat",), ("dog",))) is None
    assert columns((("dog",),)) is None
    assert columns((("cat", "kitten"), ("dog",), ("cow",))) is None
    assert columns((("dog",), ("dog",), ("cat", "kitten"))) is None
    twins = ClassSet("twins", ("a", "b", "c"), (("cat",), ("cat",), ("dog",)), ("{}",))
    three = Head(twins, torch.arange(192, dtype=torch.float32).reshape(64, 3))
    assert columns(twins.names, three) == [0, 1, 2]
    assert columns(twins.names[::-1], three) is None  # which cat is which cannot be told


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: stored.update(weights=torch.zeros(63, 2)),
        lambda stored: stored.update(weights=torch.zeros(64, 3)),
        lambda stored: stored.update(weights=torch.zeros(64, 2, dtype=torch.float16)),
        lambda stored: stored.update(weights=torch.full((64, 2), torch.nan)),
        lambda stored: stored.update(weights=[0.0]),
        lambda stored: stored.pop("weights"),
        lambda stored: stored.pop("templates"),
        lambda stored: stored.update(name=1),
        lambda stored: stored.update(folders=["cat"]),
        lambda stored: stored.update(folders=["cat", "cat"]),
        lambda stored: stored.update(folders="cd"),
        lambda stored: stored.update(names=[["cat"], [1]]),
        lambda stored: stored.update(names=[["cat"], []]),
        lambda stored: stored.update(names=[["cat"]]),
        lambda stored: stored.update(names=None),
        lambda stored: stored.update(templates=[["a" * 1000] * 2000]),
    ],
)
def test_what_is_none_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    stored = head().stored()
    change(stored)
    with pytest.raises(CheckpointError, match=r"model\.pt has a classifier"):
        read_head({HEAD_KEY: stored}, MICRO, PATH)


def test_another_models_is_refused() -> None:
    with pytest.raises(CheckpointError, match="none of a ViT-Mini"):
        read_head({HEAD_KEY: head().stored()}, named_config("ViT-Mini/8@64px"), PATH)
    with pytest.raises(CheckpointError, match="has a classifier"):
        read_head({HEAD_KEY: [1]}, MICRO, PATH)
