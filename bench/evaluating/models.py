"""Models for the comparison, with weights under which classes can be told apart, made in seconds."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from evaluating.pictures import LabelledSet

from clipkit.evaluate.classes import ClassSet, read_classes
from clipkit.evaluate.templates import templates_of
from clipkit.evaluate.zero_shot import build_classifier
from clipkit.model.checkpoint import Checkpoint, save_checkpoint
from clipkit.model.clip import Clip, build
from clipkit.model.config import ClipConfig, TextConfig, ViTConfig
from clipkit.model.formats.open_clip import to_json
from clipkit.model.preprocess import EvalTransform, normalize
from clipkit.model.tokenizer import Tokenizer
from clipkit.model.vit import VisionTransformer

TINY = ClipConfig(
    name="ViT-Tiny-32",
    embed_dim=128,
    vision=ViTConfig(layers=2, width=128, patch_size=32, image_size=224),
    text=TextConfig(width=128, heads=2, layers=2),
)
TEMPLATES = "openai-80"
_FITTED = 16  # pictures of each class
_RIDGE = 1e-3
_SMALLEST = 1e-2  # of the prompts' directions, beside the largest


class ModelFiles(NamedTuple):
    """A model's name, its configuration as OpenCLIP reads it, and a checkpoint that both sides read."""

    name: str
    config: Path
    checkpoint: Path


def class_set(made: LabelledSet) -> ClassSet:
    """The set's classes with OpenAI's 80 templates."""
    return read_classes(made.classes, name="val", templates=templates_of(TEMPLATES))


def random_model(config: ClipConfig, place: Path) -> ModelFiles:
    """Write a model as it is before training."""
    return written(build(config, 0).eval(), place)


def fitted_model(made: LabelledSet, place: Path) -> ModelFiles:
    """Write a small ViT whose last projection brings the set's pictures near their classes' prompts.

    It is a ridge regression over some pictures of each class; all other weights stay as drawn. So predictions
    differ from picture to picture, by more than rounding. Without the ridge large weights would cancel out,
    and the rounding of float32 decide.
    """
    model = build(TINY, 0).eval()
    visual = model.visual
    assert isinstance(visual, VisionTransformer)
    classifier_DN = build_classifier(model, Tokenizer(model.context_length), class_set(made))
    targets_ND = torch.linalg.pinv(classifier_DN.double(), rtol=_SMALLEST)
    features, targets = [], []
    transform = EvalTransform(TINY.image_size)
    with torch.no_grad():
        visual.proj.copy_(torch.eye(*visual.proj.shape))
        for label, folder in enumerate(sorted(made.folder.iterdir())):
            paths = sorted(folder.iterdir())[:_FITTED]
            pixels = torch.stack([torch.from_numpy(transform(path.read_bytes())) for path in paths])
            features.append(model.encode_image(normalize(pixels)).double())
            targets.append(targets_ND[label].expand(len(paths), -1))
        features_KD = torch.cat(features)
        squares_DD = features_KD.T @ features_KD
        ridge_DD = torch.eye(len(squares_DD)) * _RIDGE * squares_DD.trace() / len(squares_DD)
        found_DD = torch.linalg.solve(squares_DD + ridge_DD, features_KD.T @ torch.cat(targets))
        visual.proj.copy_(found_DD / found_DD.std() * TINY.embed_dim**-0.5)
    return written(model, place)


def written(model: Clip, place: Path) -> ModelFiles:
    """Write a model below `place`, for both sides."""
    config = model.config
    folder = place / config.file_name
    folder.mkdir(parents=True, exist_ok=True)
    files = ModelFiles(config.file_name, folder / f"{config.file_name}.json", folder / "model.pt")
    files.config.write_text(json.dumps(to_json(config)))
    save_checkpoint(
        files.checkpoint,
        Checkpoint(
            epoch=0,
            name=config.file_name,
            state_dict=model.state_dict(),
            model_config=config.model_dump(mode="json"),
        ),
    )
    return files
