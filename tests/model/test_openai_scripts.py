"""Scripts written for OpenAI's package give the same with `import clipkit as clip`, on the same weights."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader, Dataset

import clipkit

Figures = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float64]
Script = Callable[[Any, str], Figures]
SHAPES = ("circle", "square", "cross", "bar")
TOLERANCE = 1e-5


class Shapes(Dataset[tuple[Any, int]]):
    """Small pictures of four classes, in the place of a downloaded dataset."""

    def __init__(self, count: int, seed: int, transform: Callable[[Image.Image], Any] | None = None):
        self.count, self.seed, self.transform = count, seed, transform

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index >= self.count:
            raise IndexError(index)
        chance = np.random.default_rng((self.seed, index))
        label = index % len(SHAPES)
        picture = Image.new("RGB", (48, 40), tuple(int(level) for level in chance.integers(0, 256, 3)))
        pen, colour = ImageDraw.Draw(picture), tuple(int(level) for level in chance.integers(0, 256, 3))
        left, top = (int(value) for value in chance.integers(2, 16, 2))
        box = (left, top, left + 20, top + 20)
        if label == 0:
            pen.ellipse(box, fill=colour)
        elif label == 1:
            pen.rectangle(box, fill=colour)
        elif label == 2:
            pen.line(box, fill=colour, width=4)
            pen.line((box[2], box[1], box[0], box[3]), fill=colour, width=4)
        else:
            pen.rectangle((left, top + 8, left + 20, top + 12), fill=colour)
        return (self.transform(picture) if self.transform else picture), label


def three_captions(clip: Any, name: str) -> Figures:
    """The probabilities of three captions for one picture."""
    device = "cpu"
    model, preprocess = clip.load(name, device=device)
    picture, _ = Shapes(1, seed=0)[0]
    image = preprocess(picture).unsqueeze(0).to(device)
    text = clip.tokenize(["a diagram", "a dog", "a cat"]).to(device)
    with torch.no_grad():
        image_features = model.encode_image(image)
        text_features = model.encode_text(text)
        assert image_features.shape[1] == text_features.shape[1]
        logits_per_image, logits_per_text = model(image, text)
        assert torch.equal(logits_per_image.t(), logits_per_text)
        probs = logits_per_image.softmax(dim=-1).cpu().numpy()
    return np.asarray(probs)


def zero_shot(clip: Any, name: str) -> Figures:
    """The likeliest classes of one picture of a dataset, and how likely they are."""
    model, preprocess = clip.load(name, "cpu")
    picture, _ = Shapes(20, seed=1)[13]
    image_input = preprocess(picture).unsqueeze(0).to("cpu")
    text_inputs = torch.cat([clip.tokenize(f"a photo of a {shape}") for shape in SHAPES]).to("cpu")
    with torch.no_grad():
        image_features = model.encode_image(image_input)
        text_features = model.encode_text(text_inputs)
    image_features /= image_features.norm(dim=-1, keepdim=True)
    text_features /= text_features.norm(dim=-1, keepdim=True)
    similarity = (model.logit_scale.exp() * image_features @ text_features.T).softmax(dim=-1)
    values, indices = similarity[0].topk(3)
    return np.array([*values.detach().tolist(), *indices.tolist()], np.float32)


def linear_probe(clip: Any, name: str) -> Figures:
    """The classes that a logistic regression on the features predicts, and its weights."""
    model, preprocess = clip.load(name, "cpu")

    def features_of(dataset: Shapes) -> tuple[Figures, npt.NDArray[np.int64]]:
        features, labels = [], []
        with torch.no_grad():
            for images, classes in DataLoader(dataset, batch_size=16):
                features.append(model.encode_image(images.to("cpu")))
                labels.append(classes)
        return torch.cat(features).cpu().numpy(), torch.cat(labels).cpu().numpy()

    known, labels = features_of(Shapes(64, 2, preprocess))
    unknown, truth = features_of(Shapes(32, 3, preprocess))
    weights = logistic_regression(known.astype(np.float64), labels)
    scores = unknown.astype(np.float64) @ weights
    assert np.mean(scores.argmax(axis=1) == truth) > 0.25
    return np.concatenate([known.ravel(), unknown.ravel()]).astype(np.float32)


def logistic_regression(
    features: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    wanted = np.eye(len(SHAPES))[labels]
    weights = np.zeros((features.shape[1], len(SHAPES)))
    for _ in range(200):
        scores = features @ weights
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        weights -= 0.1 * features.T @ (chances - wanted) / len(labels)
    return weights


@pytest.mark.parametrize("script", [three_captions, zero_shot, linear_probe])
def test_a_script_gives_the_same_with_the_import_changed(
    openai_clip: Any, openai_archive: Path, script: Script
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; OpenAI's code is not ours
        theirs = script(openai_clip, str(openai_archive))
    ours = script(clipkit, str(openai_archive))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < TOLERANCE
    assert np.ptp(ours) > 1e-3
