"""Folders that `transformers.CLIPModel.from_pretrained` opens, with their processor and tokenizer.

`transformers` itself is not needed, for reading nor for writing.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from clipkit.errors import CheckpointError
from clipkit.json_values import parsed_json
from clipkit.model.clip import Clip, shapes_of
from clipkit.model.config import OPENAI_VOCABULARY, ClipConfig, ResNetConfig
from clipkit.model.formats import hugging_face_inputs as inputs
from clipkit.model.formats.archive import SAFETENSORS_SUFFIX, read_pytorch, read_safetensors
from clipkit.model.formats.hugging_face_config import CONFIG_FILE, from_json, to_json
from clipkit.model.formats.hugging_face_names import POSITION_IDS, to_ours, to_theirs
from clipkit.model.weights import Weights, check_tensors
from clipkit.run_folder import CHECKPOINTS

WEIGHTS_FILE = "model.safetensors"
INDEX_SUFFIX = ".index.json"
WEIGHTS_FILES = (
    WEIGHTS_FILE,
    WEIGHTS_FILE + INDEX_SUFFIX,
    "pytorch_model.bin",
    "pytorch_model.bin" + INDEX_SUFFIX,
)
"""In the order in which `from_pretrained` looks for them."""

LARGEST_TEXT = 1 << 23
"""Bytes of a file of JSON or text; those of real models are under 4 MB."""

DEEPEST_JSON = 32

_LONGEST_NAME = 200

_OTHERS = {
    CONFIG_FILE,
    inputs.VOCABULARY_FILE,
    inputs.MERGES_FILE,
    inputs.TOKENIZER_FILE,
    inputs.TOKENIZER_CONFIG_FILE,
    inputs.SPECIAL_TOKENS_FILE,
    inputs.PREPROCESSOR_FILE,
    inputs.PROCESSOR_FILE,
    "generation_config.json",
    "added_tokens.json",
}


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder with a model in it, by its files' names."""
    return (path / CONFIG_FILE).is_file() and any((path / name).is_file() for name in WEIGHTS_FILES)


def strangers(path: Path) -> list[str]:
    """What lies in a folder and is no file of such a model, so that replacing the folder would lose it."""
    return sorted(entry.name for entry in path.iterdir() if not _is_of_model(entry))


def files(path: Path) -> list[Path]:
    """The files of such a model in a folder, in the order of their names."""
    return sorted(entry for entry in path.iterdir() if _is_of_model(entry))


def refusal(clip: Clip) -> str | None:
    """Why a `CLIPModel` cannot express this model; None if it can."""
    config = clip.config
    if isinstance(config.vision, ResNetConfig):
        return f"its image tower is a vision transformer, that of {config.name} a ResNet"
    if config.text.vocab_size != OPENAI_VOCABULARY:
        found = f"{config.name} has {config.text.vocab_size}"
        return f"it comes with a tokenizer, and OpenAI's has {OPENAI_VOCABULARY} tokens where {found}"
    return None


def write(clip: Clip, folder: Path) -> None:
    """Write the files of a `CLIPModel` into an empty folder. Raises OSError as the file system does."""
    config = clip.config
    tensors = to_theirs(clip.state_dict(), config)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    (folder / WEIGHTS_FILE).write_bytes(safetensors.torch.save(whole, {"format": "pt"}))
    for name, content in {CONFIG_FILE: to_json(config), **inputs.input_files(config)}.items():
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False)
        (folder / name).write_text(text, encoding="utf-8")


def read(folder: Path) -> Weights:
    """Read a `CLIPModel` from its folder, onto the CPU; nothing in it is executed.

    Raises CheckpointError for files that are missing, damaged or hostile, for tensors that `CLIPModel` has
    not or that are missing, and for a model, tokenizer or image processor that clipkit does not compute.
    """
    if (folder / CHECKPOINTS).is_dir():  # a run has a config.json, too
        raise CheckpointError(
            f"{folder}: expected a model, found the folder of a run: give one of its checkpoints, such as "
            f"{folder / CHECKPOINTS / 'latest'}"
        )
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"{folder} is a folder without {CONFIG_FILE}; expected a Hugging Face CLIPModel's, or a file"
        )
    config = from_json(_json(folder / CONFIG_FILE), folder / CONFIG_FILE)
    _check_inputs(folder, config)
    tensors = _tensors(folder)
    _drop_position_ids(tensors, folder)
    expected = to_theirs(shapes_of(config).state_dict(), config)
    check_tensors(tensors, expected, folder, config.name)
    return Weights(config, to_ours(tensors, config))


def _is_of_model(path: Path) -> bool:
    shard = path.name.startswith(("model-", "pytorch_model-")) and path.suffix in (SAFETENSORS_SUFFIX, ".bin")
    return path.is_file() and (shard or path.name in _OTHERS or path.name in WEIGHTS_FILES)


def _tensors(folder: Path) -> dict[str, Tensor]:
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return _sharded(folder / name) if name.endswith(INDEX_SUFFIX) else _one_file(folder / name)
    expected = " or ".join((WEIGHTS_FILES[0], WEIGHTS_FILES[2]))
    raise CheckpointError(f"{folder} holds no weights of a CLIPModel: expected {expected} in it")


def _one_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}, which the index beside it names")
    if path.suffix == SAFETENSORS_SUFFIX:
        return read_safetensors(path)[0]
    content = read_pytorch(path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected named tensors")
    return content


def _sharded(index: Path) -> dict[str, Tensor]:
    content = _json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} has no weight_map: it does not say where the tensors are")
    suffix = Path(index.name.removesuffix(INDEX_SUFFIX)).suffix
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(map(str, places.values())):
        if Path(name).name != name or Path(name).suffix != suffix or len(name) > _LONGEST_NAME:
            raise CheckpointError(f"{index} names {name[:80]!r}, which is no {suffix} file beside it")
        found = _one_file(index.with_name(name))
        for key in found:
            if places.get(key) != name:
                raise CheckpointError(f"{index} does not say that {key[:80]} is in {name}, where it is")
        tensors |= found
    missing = next((key for key in places if key not in tensors), None)
    if missing is not None:
        raise CheckpointError(f"{index} says that {missing[:80]} is in {places[missing]}, where it is not")
    return tensors


def _drop_position_ids(tensors: dict[str, Tensor], folder: Path) -> None:
    for name in POSITION_IDS:
        numbers: Any = tensors.pop(name, None)
        if numbers is None:
            continue
        if not isinstance(numbers, Tensor) or numbers.flatten().tolist() != [*range(numbers.numel())]:
            raise CheckpointError(f"{folder}: {name} does not count from 0, which clipkit's networks do")


def _check_inputs(folder: Path, config: ClipConfig) -> None:
    for name, fault in _input_faults(folder, config):
        if fault is not None:
            raise CheckpointError(f"{folder / name} {fault}: clipkit cannot give this model what it expects")


def _input_faults(folder: Path, config: ClipConfig) -> Iterator[tuple[str, str | None]]:
    if (path := folder / inputs.VOCABULARY_FILE).is_file():
        yield path.name, inputs.vocabulary_fault(_json(path))
    if (path := folder / inputs.MERGES_FILE).is_file():
        yield path.name, inputs.merges_fault(_text(path).split("\n"))
    if (path := folder / inputs.TOKENIZER_FILE).is_file():
        yield path.name, inputs.tokenizer_fault(_json(path))
    if (path := folder / inputs.PREPROCESSOR_FILE).is_file():
        yield path.name, inputs.processor_fault(_json(path), config.image_size)
    if (path := folder / inputs.PROCESSOR_FILE).is_file():
        parts = _json(path)
        if isinstance(parts, dict) and "image_processor" in parts:  # newer versions, and all in one file
            yield path.name, inputs.processor_fault(parts["image_processor"], config.image_size)


def _json(path: Path) -> Any:
    try:
        content = parsed_json(_text(path))
    except ValueError as error:
        reason = str(error).splitlines()[0] if isinstance(error, json.JSONDecodeError) else "no JSON"
        raise CheckpointError(f"{path} is damaged: {reason}; fetch or write it anew") from error
    level, depth = [content], 0
    while level := [part for value in level for part in _parts(value)]:
        depth += 1
        if depth > DEEPEST_JSON:
            raise CheckpointError(f"{path} is nested more than {DEEPEST_JSON} deep, which none is: refused")
    return content


def _parts(value: Any) -> list[Any]:
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [part for part in within if isinstance(part, dict | list)]


def _text(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            data = opened.read(LARGEST_TEXT + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > LARGEST_TEXT:
        raise CheckpointError(f"{path} is larger than {LARGEST_TEXT >> 20} MiB, which none is: refused")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not text in UTF-8; fetch or write it anew") from error
