"""From a file of any known format to configuration and weights, every tensor checked by name and shape."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from clipkit.errors import CheckpointError, first_fault
from clipkit.model.clip import Clip, shapes_of
from clipkit.model.config import (
    GELU_SUFFIX,
    QUICK_GELU_SUFFIX,
    ClipConfig,
    config_names,
    named_config,
)
from clipkit.model.formats.archive import CONFIG_KEY, ModelFile, is_out_of_memory, read_model_file
from clipkit.model.formats.openai_shapes import BUFFERS, archives_config, without_buffers

HEAD_KEY = "classifier"
"""What of a clipkit checkpoint is a fine-tuned classifier's head, beside the CLIP's own weights."""

StateDict = dict[str, Tensor]
LARGEST_SETTINGS = 1 << 20
"""Values and characters of the settings in a file; a model's are under a hundred."""

_FITTING = {
    torch.float32: {torch.float16, torch.bfloat16, torch.float32, torch.float64},
    torch.int64: {torch.int32, torch.int64},
}
"""Types of values that stand for those of a model: no quantized ones."""


@dataclass(frozen=True)
class Weights:
    """A model at rest: configuration, tensors under OpenAI's names, and where they come from."""

    config: ClipConfig
    state_dict: StateDict
    epoch: int = 0
    name: str = ""
    has_head: bool = False
    """whether a fine-tuned head, which is none of them, stands beside them"""


def read_weights(path: Path, model: str | None = None, *, remedy: str = "leave out --model") -> Weights:
    """Read a model file of any format that is known, whatever it is called.

    `model` must be given for a file that does not name its model (OpenCLIP's and plain state_dicts never do:
    the activation cannot be seen in the weights), and must agree with one that does. Raises CheckpointError
    with what does not fit; `remedy` ends the line about a file of another model.
    """
    if path.is_dir():
        from clipkit.model.formats import hugging_face  # it reads into what stands here

        weights = hugging_face.read(path)
        if model is not None:
            check_model(weights.config, named_config(model), path, remedy)
        return weights
    file = read_model_file(path)
    tensors = clean_names(file.tensors)
    config = _stated_config(file, tensors, path)
    if config is None:
        config = _asked_config(model, tensors, path)
    elif model is not None:
        check_model(config, named_config(model), path, remedy)
    epoch, name = file.said.get("epoch"), file.said.get("name")
    return Weights(
        config,
        without_buffers(tensors, config, path),
        epoch if isinstance(epoch, int) else 0,
        name if isinstance(name, str) else "",
        HEAD_KEY in file.said,
    )


def assemble(weights: Weights, path: Path) -> Clip:
    """Build the model in float32 on the CPU, in evaluation mode, and give it these weights.

    They are taken out of `weights` one by one, so that no large model is held twice. Raises CheckpointError
    for tensors that do not fit it, and where they do not fit into memory.
    """
    clip = shapes_of(weights.config)
    expected = clip.state_dict()
    check_tensors(weights.state_dict, expected, path, weights.config.name)
    try:
        # A copy of each: nothing shares memory with the file or with another tensor.
        tensors = {
            key: weights.state_dict.pop(key).to(value.dtype, copy=True, memory_format=torch.contiguous_format)
            for key, value in expected.items()
        }
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{path} is a {weights.config.name}, which takes more memory than there is; make memory free"
        ) from error
    clip.load_state_dict(tensors, assign=True)
    return clip.eval()


def check_tensors(found: Mapping[str, Any], expected: Mapping[str, Tensor], path: Path, model: str) -> None:
    """Raise CheckpointError, naming the first, for a tensor that is missing, unknown, or of another shape."""
    if fault := _tensor_fault(found, expected, model):
        raise CheckpointError(f"{path} {fault}; give the file of a {model}, whole and as it was published")
    _check_own_memory([found[key] for key in expected], path)


def _tensor_fault(found: Mapping[str, Any], expected: Mapping[str, Tensor], model: str) -> str | None:
    missing = [key for key in expected if key not in found]
    unknown = [key for key in found if key not in expected]
    if missing:
        return f"is not a {model}: it lacks {_listed(missing)}"
    if unknown:
        return f"is not a {model}, which has no {_listed(unknown)}"
    for key, value in expected.items():
        tensor = found[key]
        if not isinstance(tensor, Tensor) or not _is_dense(tensor):
            return f"is not a {model}: {key} is not a dense tensor of real numbers"
        if tensor.dtype not in _FITTING[value.dtype]:
            kinds = f"{_kind(tensor)}, not {_kind(value)}"
            return f"is not a {model}: the values of {key} are {kinds}"
        if tensor.shape != value.shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(value.shape)}"
            return f"is not a {model}: {key} has shape {shapes}"
    return None


def stored_config(value: Any, path: Path) -> ClipConfig:
    """The configuration that stands in a file. Raises CheckpointError for one that is none."""
    check_size(value, CONFIG_KEY, path)
    try:
        return ClipConfig.model_validate(value)
    except ValidationError as error:
        raise CheckpointError(f"{path} has a {CONFIG_KEY} that is none: {first_fault(error)}") from error


def check_size(value: Any, name: str, path: Path) -> None:
    """Raise CheckpointError for settings from a file that, written out, are larger than any.

    A pickle may hold one list a thousand times, in a list that it holds a thousand times, or in itself: a few
    bytes, and whoever wants to show them never ends.
    """
    waiting, written = [value], 0
    while waiting and written <= LARGEST_SETTINGS:
        part = waiting.pop()
        written += 1 + (len(part) if isinstance(part, str | bytes) else 0)
        if isinstance(part, Mapping):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple):
            waiting += part
    if waiting or written > LARGEST_SETTINGS:
        raise CheckpointError(f"{path} has a {name} that is none: it is larger than any, or holds itself")


def clean_names(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Take wrappers' marks out of names: `_orig_mod.` (torch.compile), and a `module.` (DDP) before them all.

    Where two names would become one they are left as they are.
    """
    names = [key.replace("_orig_mod.", "") for key in state_dict]
    if all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    return dict(zip(names if len({*names}) == len(names) else state_dict, state_dict.values(), strict=True))


def _stated_config(file: ModelFile, tensors: Mapping[str, Any], path: Path) -> ClipConfig | None:
    if CONFIG_KEY in file.said:
        return stored_config(file.said[CONFIG_KEY], path)
    return archives_config(tensors, path) if file.is_torchscript else None


def _asked_config(model: str | None, tensors: Mapping[str, Any], path: Path) -> ClipConfig:
    if model is None:
        raise CheckpointError(
            f"{path} does not say which model it is, nor its activation; {_fitting(tensors)}"
        )
    config = named_config(model)
    expected = shapes_of(config).state_dict()
    try:
        if fault := _tensor_fault(without_buffers(tensors, config, path), expected, config.name):
            raise CheckpointError(f"{path} {fault}")
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_fitting(tensors)}") from error
    if config.open_clip_name is not None and not model.strip().endswith((QUICK_GELU_SUFFIX, GELU_SUFFIX)):
        raise CheckpointError(
            f"{path} does not say its activation, and {config.name} alone means QuickGELU to OpenAI and GELU "
            f"to OpenCLIP: say --model {_both_names(config.name)}"
        )
    return config


def _both_names(name: str) -> str:
    return f"{name}{QUICK_GELU_SUFFIX} or {name}{GELU_SUFFIX}"


def check_model(found: ClipConfig, wanted: ClipConfig, path: Path, remedy: str) -> None:
    """Raise CheckpointError if a file's configuration is not the one asked for, showing both."""
    differences = found.differences(wanted)
    if differences:
        raise CheckpointError(
            f"{path} is a {found.name}, not a {wanted.name}: {'; '.join(differences[:4])}; {remedy}"
        )


def _fitting(tensors: Mapping[str, Any]) -> str:
    found = {
        key: value.shape for key, value in tensors.items() if isinstance(value, Tensor) and key not in BUFFERS
    }
    fitting = []
    for name in config_names():
        expected = shapes_of(named_config(name)).state_dict()
        if found == {key: value.shape for key, value in expected.items()}:
            fitting.append(_both_names(name))
    if fitting:
        return f"name it with --model, in Python with model=: {' or '.join(fitting)}"
    return f"its tensors are those of none of {', '.join(config_names())}"


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _is_dense(tensor: Tensor) -> bool:
    real = not tensor.is_complex() and not tensor.is_quantized
    return real and tensor.layout == torch.strided and not tensor.is_meta


def _check_own_memory(tensors: list[Tensor], path: Path) -> None:
    # Each is copied: tensors that share their bytes would let a small file ask for much memory.
    stored = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    claimed, held = sum(t.numel() * t.element_size() for t in tensors), sum(stored.values())
    if claimed > held:
        sizes = f"{claimed:,} bytes, of which it stores {held:,}"
        raise CheckpointError(f"{path} holds weights of {sizes}: refused")


def _listed(names: list[str]) -> str:
    first = names[0][:100]  # a name may be a megabyte long
    return first if len(names) == 1 else f"{first} and {len(names) - 1} more"
