"""`clipkit.load`: the way `clip.load` is called, for OpenAI's released models and for files of any format."""

from collections.abc import Mapping
from pathlib import Path

import torch

from clipkit.model.checkpoint import load_model
from clipkit.model.clip import Clip
from clipkit.model.preprocess import OpenAITransform
from clipkit.model.released import RELEASED, no_such_model, released_file, released_name


def load(
    name: str | Path,
    device: str | torch.device | None = None,
    jit: bool = False,
    download_root: str | Path | None = None,
    *,
    model: str | None = None,
    addresses: Mapping[str, str] = RELEASED,
) -> tuple[Clip, OpenAITransform]:
    """Open a model in evaluation mode and return it with its preprocessing (PIL picture → tensor).

    `name` is one of `available_models()`, fetched into `download_root` (`~/.cache/clip`) unless it is there,
    or the path of a model file. `device` defaults to CUDA where there is one; weights stay float32. `jit`
    changes nothing: the code in OpenAI's archives is never run. `model` names the configuration of a file
    that does not say its own. `addresses`: the published files, their sha256 being the last folder.

    Raises CheckpointError for a file that is missing or cannot be opened, DownloadError for a released model
    that cannot be fetched.
    """
    released = str(name) if str(name) in addresses else None
    if released is None and not Path(name).exists():
        released = released_name(str(name))
    if released is None:
        path = Path(name)
        if not path.exists():
            raise no_such_model(name)
    else:
        folder = None if download_root is None else Path(download_root)
        path = released_file(released, folder, addresses=addresses)
        model = model or (released if released in RELEASED else None)
    chosen = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    clip = load_model(path, chosen, model)
    return clip, OpenAITransform(clip.config.image_size)
