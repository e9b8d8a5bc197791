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


def test_it_fits_the_same_names_in_the_same_order_whatever_prompts_and_folders_are() -> None:
    assert head().fits(ClassSet("other", ("0", "1"), PETS.names, ("{}",)))
    assert not head().fits(ClassSet("pets", PETS.folders, PETS.names[::-1], PETS.templates))
    assert not head().fits(ClassSet("pets", PETS.folders, (("cat",), ("dog",)), PETS.templates))


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
