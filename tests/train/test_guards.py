"""Each warning on a real run that deserves it, and none on data that can be learned."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.shards.shard_set import ShardSet
from clipkit.train import bottleneck
from clipkit.train.bottleneck import Bottleneck
from clipkit.train.config import TrainConfig
from clipkit.train.guards import StrangePictures, StuckLoss
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory
from tests.conftest import picture
from tests.tars import write_tar

WORDS = ["red", "green", "blue", "cat", "dog", "house", "tree", "car", "river", "man", "woman", "sky", "sun"]
CONFIG = TrainConfig(
    model="ViT-Micro/16@32px",
    batch_size=16,
    samples_seen=16 * 20,
    lr=1e-3,
    warmup=2.0,
    log_every=1,
    workers=0,
)


def words(number: int) -> str:
    return " ".join(np.random.default_rng(number).choice(WORDS, 5))


def flat(number: int) -> bytes:
    return png(np.full((40, 48, 3), number, np.uint8))


def from_floats(number: int) -> bytes:
    """A picture of 0…1 that was cast to bytes."""
    return png(np.random.default_rng(number).random((40, 48, 3)).round().astype(np.uint8))


def png(pixels_HWC: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels_HWC).save(data, "PNG")
    return data.getvalue()


def warnings_of(
    folder: Path,
    image: Callable[[int], bytes] = picture,
    caption: Callable[[int], str] = words,
    config: TrainConfig = CONFIG,
) -> list[str]:
    """Train on 256 samples; return the run's warnings."""
    ending = "png" if image(0)[:4] == b"\x89PNG" else "jpg"
    samples = ({"__key__": f"{n:03d}", ending: image(n), "txt": caption(n)} for n in range(256))
    run = RunDirectory(folder / "run")
    train(config, ShardSet(str(write_tar(folder / "data.tar", samples))), run)
    said = (run.path / "out.log").read_text().splitlines()
    return [line.partition("warning: ")[2] for line in said if "warning: " in line]


def test_a_short_run_on_pictures_and_words_gives_no_warning(tmp_path: Path) -> None:
    assert warnings_of(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("model", ["ViT-Micro/16@32px", "RN-Mini@64px"])
def test_what_can_be_learned_by_heart_gives_no_warning(tmp_path: Path, model: str) -> None:
    config = CONFIG.model_copy(update={"model": model, "samples_seen": 16 * 400, "log_every": 10})
    assert warnings_of(tmp_path, config=config) == []


def test_captions_that_are_the_same_are_told_once(tmp_path: Path) -> None:
    (warning,) = warnings_of(tmp_path, caption=lambda number: f"a photo of a {WORDS[number % 10]}")
    share = int(warning.partition("%")[0])
    assert 40 < share < 60  # 16 draws of 10 classes leave 8.1 of them
    assert "of the captions repeat another one of their batch" in warning


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (
            from_floats,
            "100% of the pictures are nearly black, no value above 1 of 255: were they stored as 0…1?",
        ),
        (lambda number: flat(0), "100% of the pictures are nearly black, no value above 0 of 255"),
        (flat, "100% of the pictures are of one colour: placeholders"),
        (lambda number: picture(number) if number % 4 else flat(200), "% of the pictures are of one colour"),
        (lambda number: picture(0), "all pictures of a batch are nearly the same one"),
    ],
    ids=["floats", "black", "flat", "some flat", "same"],
)
def test_strange_pictures_are_told_once(image: Callable[[int], bytes], said: str, tmp_path: Path) -> None:
    (warning,) = warnings_of(tmp_path, image)
    assert said in warning
    assert "clipkit shards show" in warning


@pytest.mark.slow
def test_a_loss_of_guessing_after_the_warm_up_is_told_once(tmp_path: Path) -> None:
    """A rate at which all features become equal: the loss is ln(batch size) from then on."""
    config = CONFIG.model_copy(update={"lr": 1.0, "samples_seen": 16 * 330, "log_every": 10})
    (warning,) = warnings_of(tmp_path, config=config)
    assert f"stayed at {math.log(16):.3f}, that of guessing, ln(batch size) = {math.log(16):.3f}" in warning


def told(losses: list[float], warmup: int = 0) -> list[str]:
    said: list[str] = []
    guard = StuckLoss(128, warmup, said.append)
    for number, loss in enumerate(losses, 1):
        guard.add(10 * number, loss)
    return said


def test_when_a_loss_is_stuck() -> None:
    guessing = math.log(128)
    assert told([guessing] * 29) == []
    assert len(told([guessing] * 200)) == 1
    assert told([guessing] * 40, warmup=200) == []
    assert len(told([guessing] * 50, warmup=200)) == 1
    noisy = torch.randn(200, generator=torch.Generator().manual_seed(0)).mul(0.003).tolist()
    assert len(told([guessing + each for each in noisy])) == 1
    assert told([guessing * 0.99] * 200) == []
    assert told([guessing * (1 - 0.0001 * line) for line in range(200)]) == []  # slow, but it learns
    assert told([guessing * 1.02] * 5 + [guessing * (0.999**line) for line in range(200)]) == []


def test_a_few_flat_pictures_among_many_are_none_of_our_business() -> None:
    said: list[str] = []
    guard = StrangePictures(said.append)
    draws = torch.Generator().manual_seed(0)
    for _ in range(20):
        images_BCHW = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=draws)
        images_BCHW[0] = 255
        guard.look(images_BCHW)
    assert said == []


def test_the_bottleneck_is_named_once_and_again_when_it_changes_much() -> None:
    said: list[str] = []
    named = Bottleneck(2, said.append)
    for share in (0.9, 0.02, 0.3, 0.3, 0.35, 0.3, 0.7, 0.7, 0.6, 0.01, 0.01, 0.04):
        named.add(30.0, 30.0 * share)
    assert [line.partition(";")[0] for line in said] == [
        "bottleneck: training waits for data 30% of the time",
        "bottleneck: training waits for data 70% of the time",
        "bottleneck: training hardly waits for data any more, 1% of the time",
    ]
    assert "--workers" in said[0] and "clipkit shards bench" in said[0]


def test_a_run_whose_batches_are_made_between_the_steps_names_its_bottleneck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bottleneck, "_SECONDS", 0.0)
    monkeypatch.setattr(bottleneck, "_WORTH_SAYING", 1e-9)
    monkeypatch.setattr(bottleneck, "_MUCH", 1.0)
    assert warnings_of(tmp_path, config=CONFIG.model_copy(update={"samples_seen": 16 * 10})) == []
    said = (tmp_path / "run" / "out.log").read_text()
    assert said.count("bottleneck: training waits for data ") == 1
    assert "each batch is made between two steps: give --workers" in said
