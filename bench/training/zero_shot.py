"""Zero-shot accuracy by OpenCLIP's own code: `python zero_shot.py MODEL.json CHECKPOINT FOLDER CLASSES.csv`.

Prints JSON: top1 and top5, in 0…1. Model, transform, tokenizer and classifier are OpenCLIP's. The counting is
not: `open_clip_train.zero_shot.run` of 3.3.0 fails with numpy 2.4 and newer.
"""

import csv
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder


def classes(file: Path) -> dict[str, list[str]]:
    """The names of each folder's class, in the file's order."""
    with file.open(encoding="utf-8", newline="") as rows:
        return {row["folder"]: row["names"].split("|") for row in csv.DictReader(rows)}


def templates(names: Sequence[list[str]]) -> list[Callable[[list[str]], str]]:
    """Bare names as OpenCLIP's templates: so many that each name of a class is said equally often."""
    return [
        lambda given, turn=turn: given[turn % len(given)]  # type: ignore[misc]
        for turn in range(math.lcm(*map(len, names)))
    ]


def measured(model_file: Path, checkpoint: Path, folder: Path, class_file: Path) -> dict[str, float]:
    open_clip.add_model_config(model_file)
    model, _, transform = open_clip.create_model_and_transforms(model_file.stem, pretrained=str(checkpoint))
    model.eval()
    names = classes(class_file)
    places = list(names)
    pictures = ImageFolder(str(folder), transform)
    pictures.target_transform = lambda label: places.index(pictures.classes[label])
    tokenizer = open_clip.get_tokenizer(model_file.stem)
    classifier = open_clip.build_zero_shot_classifier(
        model, tokenizer, list(names.values()), templates(list(names.values())), num_classes_per_batch=64
    )
    with torch.inference_mode():
        right = [
            _right(model.encode_image(images, normalize=True) @ classifier, labels)
            for images, labels in torch.utils.data.DataLoader(pictures, batch_size=256)
        ]
    top1, top5 = torch.stack(right).sum(0) / len(pictures)
    return {"top1": top1.item(), "top5": top5.item()}


def _right(scores_BN: Tensor, labels_B: Tensor) -> Tensor:
    """How many labels are the first, and among the first five."""
    found = scores_BN.topk(5).indices == labels_B[:, None]
    return torch.stack([found[:, 0].sum(), found.sum()])


if __name__ == "__main__":
    print(json.dumps(measured(*map(Path, sys.argv[1:]))))
