"""`clipkit.load`: the way `clip.load` is called, for model files of clipkit, OpenCLIP and OpenAI."""

from pathlib import Path

import torch

from clipkit.errors import CheckpointError
from clipkit.model.checkpoint import load_model
from clipkit.model.clip import Clip
from clipkit.model.config import available_models
from clipkit.model.preprocess import OpenAITransform


def load(
    name_or_path: str | Path, device: str | torch.device | None = None, *, model: str | None = None
) -> tuple[Clip, OpenAITransform]:
    """Open a model file in evaluation mode and return it with its preprocessing (PIL picture → tensor).

    `device` defaults to CUDA where there is one; weights stay float32. `model` names the configuration of a
    file that does not say its own. Raises CheckpointError for a file that is missing or cannot be opened.
    """
    path = Path(name_or_path)
    if not path.exists():
        known = (
            f"{name_or_path} is a model without weights here"
            if str(name_or_path) in available_models()
            else None
        )
        raise CheckpointError(f"{known or f'there is no file {name_or_path}'}: give the path of a checkpoint")
    chosen = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    clip = load_model(path, chosen, model)
    return clip, OpenAITransform(clip.config.image_size)
