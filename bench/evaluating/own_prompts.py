"""clipkit's classifier, with what a first use costs: `python own_prompts.py CHECKPOINT TARGET.npy NAME …`."""

import sys
from pathlib import Path

import numpy as np

from clipkit.evaluate.classes import ClassSet
from clipkit.evaluate.templates import templates_of
from clipkit.evaluate.zero_shot import build_classifier
from clipkit.model.checkpoint import load_model
from clipkit.model.tokenizer import Tokenizer


def main(checkpoint: str, target: str, *names: str) -> None:
    model = load_model(Path(checkpoint))
    classes = ClassSet("names", names, tuple((name,) for name in names), templates_of("openai-80"))
    print("prompts begin", flush=True)
    classifier_DN = build_classifier(model, Tokenizer(model.context_length), classes)
    print("prompts end", flush=True)
    np.save(target, classifier_DN.numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
