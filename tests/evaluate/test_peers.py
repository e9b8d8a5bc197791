"""Pictures of every kind in a folder, evaluated by clipkit, by OpenCLIP and by CLIP_benchmark."""

import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import open_clip
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from clipkit.evaluate.config import EvaluateConfig
from clipkit.evaluate.run import evaluate
from clipkit.model.checkpoint import Checkpoint, save_checkpoint
from clipkit.model.clip import build
from clipkit.model.config import named_config
from clipkit.model.formats.open_clip import to_json
from tests.evaluate.spread import spread_model

NAMES = ["cat", "dog", "red fox", "tree", "boat", "a very old house"]
BENCH = Path(__file__).parent.parent.parent / "bench"


def clear(image: Image.Image) -> Image.Image:
    made = image.convert("RGBA")
    made.putalpha(image.convert("L"))
    return made


def deep(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("I").point(lambda level: level * 257).convert("I;16")


FORMS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "plain.jpg": lambda image: image,
    "turned.jpg": lambda image: image,
    "steps.jpg": lambda image: image,
    "gray.jpg": lambda image: image.convert("L"),
    "inks.jpg": lambda image: image.convert("CMYK"),
    "plain.png": lambda image: image,
    "palette.png": lambda image: image.quantize(32),
    "clear.png": clear,
    "deep.png": deep,
    "clear.webp": clear,
}


def options(name: str) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = 6
    wanted: dict[str, dict[str, Any]] = {"turned.jpg": {"exif": exif}, "steps.jpg": {"progressive": True}}
    return wanted.get(name, {})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    for label in range(len(NAMES)):
        folder = tmp_path / "val" / f"class-{label:03d}"
        folder.mkdir(parents=True)
        for place, (name, form) in enumerate(FORMS.items()):
            left, top = 55 * label + 3 * place, 45 * label + 5 * place
            part = photo.crop((left, top, left + 170, top + 130 + 60 * (label % 2)))
            form(part).save(folder / name, **options(name))
    rows = [("folder", "names"), *((f"class-{label:03d}", name) for label, name in enumerate(NAMES))]
    with (tmp_path / "classes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "val"


def test_predictions_in_a_folder_are_those_of_open_clip(pictures: Path, tmp_path: Path) -> None:
    model = spread_model()
    config = model.config
    save_checkpoint(
        tmp_path / "model.pt", Checkpoint(0, "x", model.state_dict(), config.model_dump(mode="json"))
    )
    (tmp_path / "Peers-Micro.json").write_text(json.dumps(to_json(config)))
    open_clip.add_model_config(tmp_path / "Peers-Micro.json")
    peer, _, transform = open_clip.create_model_and_transforms(
        "Peers-Micro", pretrained=str(tmp_path / "model.pt")
    )
    peer.eval()
    weights = open_clip.build_zero_shot_classifier(
        peer, open_clip.SimpleTokenizer(), NAMES, open_clip.OPENAI_IMAGENET_TEMPLATES
    )
    loader = DataLoader(ImageFolder(str(pictures), transform), batch_size=7)
    with torch.no_grad():
        scores = torch.cat([peer.encode_image(images, normalize=True) @ weights for images, _ in loader])
    settings = EvaluateConfig(folder=pictures, classes=tmp_path / "classes.csv", templates="openai-80")
    (result,) = evaluate(tmp_path / "model.pt", settings).results
    assert result.predictions.top_KT.tolist() == scores.topk(5).indices.tolist()
    highest = torch.from_numpy(result.predictions.similarity_K)
    torch.testing.assert_close(highest, scores.max(dim=1).values, rtol=0, atol=1e-5)
    assert len(set(result.predictions.top_KT[:, 0].tolist())) > 2
    assert result.images == 60


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_figures_are_those_of_open_clips_trainer_and_clip_benchmark(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an environment of their own, made in build/bench: what the benchmark does, on other pictures."""
    monkeypatch.syspath_prepend(BENCH)
    from evaluating.comparison import compare_predictions, compare_recalls
    from evaluating.models import written
    from evaluating.pictures import LabelledSet
    from evaluating.sides import Given

    files = sorted(pictures.glob("*/*"))
    numbered = [path.rename(path.with_name(f"{place}{path.suffix}")) for place, path in enumerate(files)]
    made = LabelledSet(pictures, tmp_path / "classes.csv", NAMES, len(numbered))
    given = Given(written(spread_model(), tmp_path), made)
    compare_predictions(given, tmp_path)  # they end the program where anything differs
    # Among spread texts some have the same features in every bit: OpenCLIP breaks such ties by chance.
    drawn = written(build(named_config("ViT-Micro/16@32px"), seed=5).eval(), tmp_path)
    compare_recalls(given._replace(model=drawn), tmp_path, pictures=12)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_does_not_grow_with_the_set(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCH)
    from web.measured import measured

    model = spread_model()
    dumped = model.config.model_dump(mode="json")
    save_checkpoint(tmp_path / "model.pt", Checkpoint(0, "x", model.state_dict(), dumped))
    peaks = []
    for number, times in enumerate((10, 100)):
        for path in sorted(pictures.glob("*/*.jpg")):
            for copy in range(times):
                target = tmp_path / f"set-{number}" / path.parent.name / f"{copy}-{path.name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, target)
        words = ("evaluate", "--checkpoint", tmp_path / "model.pt", "--folder", tmp_path / f"set-{number}")
        settings = ("--classes", tmp_path / "classes.csv", "--workers", "2")
        command = [sys.executable, "-m", "clipkit", *map(str, (*words, *settings))]
        cost = measured(command, tmp_path / "printed.txt", memory=True)
        assert cost.status == 0, (tmp_path / "printed.txt").read_text()
        peaks.append(cost.proportional)
    assert peaks[1] < peaks[0] + 60e6
    assert max(peaks) < 2**30
