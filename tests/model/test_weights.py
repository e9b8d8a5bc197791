from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.model.checkpoint import load_checkpoint, load_model
from tests.model.conftest import MICRO, changed, one_line, trained_looking

UNFOLDING: tuple[Any, ...] = ()
for _ in range(60):  # a pair of the pair before: to write it out takes longer than anyone lives
    UNFOLDING = (UNFOLDING, UNFOLDING)
RING: list[Any] = []
RING.append(RING)


def test_tensors_that_do_not_fit_are_named(saved: Path) -> None:
    good = torch.load(saved, weights_only=True)["state_dict"]
    key = "visual.proj"
    without = {name: tensor for name, tensor in good.items() if name != key}
    wrong: list[tuple[dict[str, object], str]] = [
        (without, "is not a ViT-Micro/16@32px: it lacks visual.proj"),
        ({**good, "extra.weight": good[key]}, "which has no extra.weight"),
        ({**good, key: torch.zeros(2, 3)}, "visual.proj has shape (2, 3), not (64, 64)"),
        ({**good, key: "text"}, "visual.proj is not a dense tensor"),
        ({**good, key: good[key].to_sparse()}, "visual.proj is not a dense tensor"),
        ({**good, key: good[key].to(torch.complex64)}, "visual.proj is not a dense tensor"),
        ({**good, key: torch.zeros(1).expand(10**6, 10**6)}, "holds a tensor of 4,000,000,000,000 bytes"),
    ]
    for state_dict, expected in wrong:
        line = one_line(lambda: load_model(changed(saved, state_dict=state_dict)))  # noqa: B023
        assert expected in line and (" bytes" in line or "; give the file of a ViT-Micro/16@32px" in line)


def test_a_configuration_that_asks_for_the_whole_memory_is_refused(saved: Path) -> None:
    config = MICRO.model_dump(mode="json") | {"embed_dim": 10**12}
    assert "embed_dim: Input should be less than" in one_line(
        lambda: load_model(changed(saved, model_config=config))
    )


@pytest.mark.parametrize(
    ("vision", "expected"),
    [
        ({"kind": "k" * 100_000}, "vision: Input tag 'kkk"),
        ({"k" * 100_000: 1}, "vision.vit.kkk"),
        ({"k" * 2_000_000: 1}, "model_config that is none: it is larger than any, or holds itself"),
        ({"kind": UNFOLDING}, "model_config that is none: it is larger than any, or holds itself"),
        ({"layers": RING}, "model_config that is none: it is larger than any, or holds itself"),
    ],
)
def test_a_configuration_that_is_no_such_thing_gets_a_line_that_can_be_read(
    saved: Path, vision: dict[str, Any], expected: str
) -> None:
    config = MICRO.model_dump(mode="json")
    path = changed(saved, model_config=config | {"vision": config["vision"] | vision})
    for open_it in (load_model, load_checkpoint):
        line = one_line(lambda: open_it(path))  # noqa: B023
        assert expected in line and len(line) < 1_000


@pytest.mark.parametrize("settings", [UNFOLDING, RING])
def test_settings_of_a_run_that_unfold_are_refused(saved: Path, settings: Any) -> None:
    line = one_line(lambda: load_checkpoint(changed(saved, train_config={"seed": settings})))
    assert "train_config that is none: it is larger than any, or holds itself" in line


def test_a_plain_state_dict_needs_its_models_name(tmp_path: Path) -> None:
    clip, path = trained_looking(MICRO), tmp_path / "plain.pt"
    torch.save(clip.state_dict(), path)
    line = one_line(lambda: load_model(path))
    assert (
        "nor its activation; name it with --model, in Python with model=: "
        "ViT-Micro/16@32px-quickgelu or ViT-Micro/16@32px-gelu" in line
    )
    assert "is not a RN50: it lacks visual.bn1.weight and " in one_line(
        lambda: load_model(path, model="RN50")
    )
    opened = load_model(path, model="ViT-Micro/16@32px")
    assert all(torch.equal(opened.state_dict()[k], v) for k, v in clip.state_dict().items())


def test_a_checkpoint_of_open_clips_first_release_opens(tmp_path: Path) -> None:
    clip, path = trained_looking(MICRO), tmp_path / "epoch_1.pt"
    tensors = {f"module.{name}": tensor for name, tensor in clip.state_dict().items()}
    torch.save({"epoch": 1, "name": "2021", "state_dict": tensors, "optimizer": {"state": {}}}, path)
    opened = load_model(path, model="ViT-Micro/16@32px")
    assert all(torch.equal(opened.state_dict()[k], v) for k, v in clip.state_dict().items())


def test_half_precision_weights_open_in_float32(tmp_path: Path) -> None:
    clip, path = trained_looking(MICRO), tmp_path / "half.pt"
    torch.save(
        {name: t.half() if t.is_floating_point() else t for name, t in clip.state_dict().items()}, path
    )
    opened = load_model(path, model="ViT-Micro/16@32px")
    assert {tensor.dtype for tensor in opened.parameters()} == {torch.float32}
