"""Checkpoints: one `torch.save` file of plain Python and tensors that OpenCLIP opens as it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipkit.atomic import replaced
from clipkit.errors import CheckpointError
from clipkit.model.clip import Clip
from clipkit.model.formats.archive import check_readable, read_pytorch, read_settings
from clipkit.model.memory_layout import fast_layout, plain_layout
from clipkit.model.weights import HEAD_KEY, assemble, check_size, clean_names, read_weights, stored_config

OPEN_CLIP_KEY = "open_clip_model"
_REQUIRED: dict[str, type] = {"epoch": int, "name": str, "state_dict": dict, "step": int, "position": int}
_REQUIRED |= {"model_config": dict, "train_config": dict}
_OPTIONAL = ("optimizer", "scaler", "rng")
_PLAIN = (str, int, float, bool, bytes, type(None))


@dataclass
class Checkpoint:
    """A model and the run that it comes from, as plain Python and tensors.

    `epoch, name, state_dict, optimizer` are what OpenCLIP writes (`epoch` counts the finished ones);
    `position` is the resume state of the data stream; `rng` holds random states; `model_config` and
    `train_config` are dumped pydantic models; `extra` is whatever else the file holds.
    """

    epoch: int
    name: str
    state_dict: dict[str, Tensor]
    model_config: dict[str, Any]
    optimizer: dict[str, Any] | None = None
    step: int = 0
    position: int = 0
    scaler: dict[str, Any] | None = None
    rng: dict[str, Any] | None = None
    train_config: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """What a checkpoint says of its run, as Checkpoint; of tensors in `extra`, a head's alone are read."""

    epoch: int
    step: int
    position: int
    extra: dict[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` beside `path` and rename it into place; a kill or a full disk leaves the old.

    Tensors are stored as the CPU's, in plain layout. Wrappers' prefixes are taken off the parameters' names;
    `open_clip_model` is added: OpenCLIP's name of the model, or None. Raises TypeError for a value that
    `torch.load(weights_only=True)` would refuse, CheckpointError for what `load_checkpoint` would, OSError
    for a full disk.
    """
    content = checkpoint_content(checkpoint, path)
    with replaced(path) as temporary:
        write_pytorch(temporary, content)
        check_readable(temporary)


def checkpoint_content(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    """What a checkpoint's file holds, checked to be plain; errors, naming `path`, as `save_checkpoint`."""
    config = stored_config(checkpoint.model_config, path)
    content: dict[str, Any] = {key: getattr(checkpoint, key) for key in (*_REQUIRED, *_OPTIONAL)}
    content["state_dict"] = clean_names(checkpoint.state_dict)
    content[OPEN_CLIP_KEY] = config.open_clip_name
    content = {**checkpoint.extra, **content}
    _check_plain(content, "checkpoint")
    return {key: _for_file(value) for key, value in content.items()}


def write_pytorch(path: Path, content: Any) -> None:
    """`torch.save` into `path`. Raises OSError, such as that of a full disk, as the file system gave it."""
    try:
        with path.open("wb") as opened:
            torch.save(content, opened)
    except RuntimeError as error:
        # torch's writer hides the file system's error behind one about its own position.
        raise _disk_error(error) or error from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a clipkit checkpoint onto the CPU; nothing in it is executed.

    Raises CheckpointError for a file that is missing, damaged, hostile, or no clipkit checkpoint.
    """
    return Checkpoint(**_known(read_pytorch(path), path))


def load_origin(path: Path) -> Origin:
    """Read of a clipkit checkpoint what it says of its run; the model's and optimizer's tensors are not read.

    Raises CheckpointError as `load_checkpoint`, but what is not read is not checked for damage.
    """
    known = _known(read_settings(path, HEAD_KEY), path)
    return Origin(known["epoch"], known["step"], known["position"], known["extra"])


def _known(raw: Any, path: Path) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} is no clipkit checkpoint: it holds a {type(raw).__name__}")
    missing = [key for key in _REQUIRED if key not in raw]
    if missing:
        raise CheckpointError(f"{path} is no clipkit checkpoint: it has no {', '.join(missing)}")
    for key, expected in _REQUIRED.items():
        if type(raw[key]) is not expected:
            kinds = f"{type(raw[key]).__name__}, not {expected.__name__}"
            raise CheckpointError(f"{path} is no clipkit checkpoint: its {key} is a {kinds}")
    for key in _OPTIONAL:
        if not isinstance(raw.get(key), dict | None):
            raise CheckpointError(
                f"{path} is no clipkit checkpoint: its {key} is a {type(raw[key]).__name__}, not dict"
            )
    check_size(raw["train_config"], "train_config", path)
    stored_config(raw["model_config"], path)
    known: dict[str, Any] = {key: raw.get(key) for key in (*_REQUIRED, *_OPTIONAL)}
    return known | {"extra": {key: value for key, value in raw.items() if key not in known}}


def load_model(path: Path, device: str | torch.device = "cpu", model: str | None = None) -> Clip:
    """Open a model file of any format that is read as a model in evaluation mode on `device`.

    `model` names the configuration, where the file does not; where it does, another one is a CheckpointError
    that shows both.
    """
    return fast_layout(assemble(read_weights(path, model), path).to(device))


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, part in value.items():
            if type(key) not in _PLAIN:
                raise TypeError(
                    f"{where} has a key of type {type(key).__name__}; checkpoints hold plain Python"
                )
            _check_plain(part, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for position, part in enumerate(value):
            _check_plain(part, f"{where}[{position}]")
    elif isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise TypeError(f"{where} is a tensor that is not dense; checkpoints hold no others")
    elif type(value) not in _PLAIN:
        raise TypeError(
            f"{where} is a {type(value).__name__}; checkpoints hold plain Python and tensors only"
        )


def _for_file(value: Any) -> Any:
    if isinstance(value, Tensor):
        return plain_layout(value.cpu())
    if isinstance(value, Mapping):
        return {key: _for_file(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [_for_file(part) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    return value


def _disk_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
