"""Reading other people's model files, whatever they are called, without running what is in them."""

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from clipkit.errors import CheckpointError
from clipkit.json_values import parsed_json
from clipkit.locations import decoded
from clipkit.model.formats.pickles import Record
from clipkit.model.formats.pytorch import PytorchFile, StoredTensor

SAFETENSORS_SUFFIX = ".safetensors"
READABLE = (
    "a clipkit or OpenCLIP checkpoint, OpenAI's TorchScript archive, a state_dict, safetensors, "
    "or the folder of a Hugging Face CLIPModel"
)
CONFIG_KEY = "model_config"

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_LFS = b"version https://git-lfs"
_LONGEST_NAME = 1_000
_LARGEST_HEADER = 4 << 20


@dataclass(frozen=True)
class ModelFile:
    """What a file holds: tensors by name, what it says beside them, whether it is a TorchScript archive."""

    tensors: dict[str, Any]
    said: Mapping[str, Any] = field(default_factory=dict)
    is_torchscript: bool = False


def read_model_file(path: Path) -> ModelFile:
    """Read the weights of a model file of any of these formats; which one, its content says.

    Only the weights are read into memory, but all of the file is checked. Raises CheckpointError as
    `read_pytorch` and `read_safetensors` do.
    """
    if file_kind(path) == "safetensors":
        tensors, metadata = read_safetensors(path)
        return ModelFile(dict(tensors), _decoded(path, metadata))
    with _opened(path) as file:
        content = file.content(lambda stored: stored)
        said = content if isinstance(content, dict) else {}
        named = _attributes(content, path) if isinstance(content, Record) else said.get("state_dict", said)
        if not isinstance(named, dict) or not named or not all(isinstance(key, str) for key in named):
            raise CheckpointError(f"{path} has no table of named tensors; expected {READABLE}")
        if named is said and not any(isinstance(value, StoredTensor) for value in named.values()):
            held = ", ".join(str(key)[:40] for key in [*named][:9])
            raise CheckpointError(f"{path} holds {held} instead of tensors by name; expected {READABLE}")
        tensors = {
            key: file.tensor(value) if isinstance(value, StoredTensor) else value
            for key, value in named.items()
        }
        file.check_rest()
        return ModelFile(tensors, {} if named is said else said, file.is_torchscript)


def read_pytorch(path: Path) -> Any:
    """Plain Python and tensors that `torch.save` put into `path`, on the CPU; nothing in it is executed.

    Raises CheckpointError for a file that is missing, cut short, damaged, compressed (a checkpoint never is;
    a zip bomb is), of another format, that asks for any code to be run, or that holds a tensor larger than
    its bytes.
    """
    if file_kind(path) != "zip":
        raise CheckpointError(f"{path} is a safetensors file; expected one that PyTorch wrote")
    with _opened(path) as file:
        if file.is_torchscript:
            raise CheckpointError(f"{path} is a TorchScript archive; expected what torch.save wrote")
        content = file.content(file.tensor)
        file.check_rest()
        return content


def read_settings(path: Path, with_tensors: str) -> Any:
    """What `read_pytorch` returns with a StoredTensor for each tensor, none of which is read into memory.

    Only those that stand in the dictionary under the key `with_tensors`, if there is one, are read. Raises
    CheckpointError as `read_pytorch`, but what is not read is not checked for damage.
    """
    with _opened(path) as file:
        content = file.content(lambda stored: stored)
        part = content.get(with_tensors) if isinstance(content, dict) else None
        if isinstance(part, dict):
            read = {
                key: file.tensor(value) if isinstance(value, StoredTensor) else value
                for key, value in part.items()
            }
            return content | {with_tensors: read}
        return content


def check_readable(path: Path) -> None:
    """Raise CheckpointError if `read_pytorch` would refuse what is in a file; its tensors are not read."""
    with _opened(path) as file:
        file.content(lambda stored: stored)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises CheckpointError if it is missing or damaged."""
    if decoded(str(path)) != str(path):
        raise CheckpointError(
            f"{path}: safetensors opens only names that are UTF-8: give it, or its folder, one"
        )
    try:
        _check_header(path)
        with safe_open(path, framework="pt", device="cpu") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is no safetensors file that can be read: {_first_line(error)}"
        ) from error


def file_kind(path: Path) -> Literal["zip", "safetensors"]:
    """Which of the two containers a file is, by its first bytes. Raises CheckpointError if it is neither."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):  # opening a pipe would wait for someone to write into it
            raise CheckpointError(f"{path} is no regular file; expected {READABLE}")
        with path.open("rb") as opened:
            start = opened.read(len(_LFS))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; expected {READABLE}") from error
    if start.startswith(_ZIP):
        return "zip"
    if start[8:9] == b"{":  # the header's length, then the header, JSON
        return "safetensors"
    raise CheckpointError(f"{path} is {_other_kind(start)}; expected {READABLE}")


def is_model_file(path: Path) -> bool:
    """Whether a file looks like one of these formats, by its directory or header alone."""
    try:
        if file_kind(path) == "zip":
            with _opened(path):
                pass
    except CheckpointError:
        return False
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch's allocator for the CPU had no more memory to give."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


@contextmanager
def _opened(path: Path) -> Iterator[PytorchFile]:
    try:
        with path.open("rb") as opened:
            yield PytorchFile(opened, path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; expected {READABLE}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise CheckpointError(f"{path} asks for more memory than there is: refused") from error


def _attributes(root: Record, path: Path) -> dict[str, StoredTensor]:
    # The modules of a TorchScript archive as the names of a state_dict. No recursion, and each module once:
    # they may be nested to any depth, and hold themselves.
    tensors, waiting, seen = {}, [("", root)], {id(root)}
    while waiting:
        prefix, record = waiting.pop()
        for name, value in record.attributes.items():
            full = f"{prefix}{name}"
            if isinstance(value, StoredTensor):
                tensors[full] = value
            elif isinstance(value, Record):
                if id(value) in seen or len(full) > _LONGEST_NAME:
                    raise CheckpointError(f"{path} holds a module twice, or in itself: refused")
                seen.add(id(value))
                waiting.append((f"{full}.", value))
    return tensors


def _check_header(path: Path) -> None:
    # The library takes the last of several entries of one name; another reader takes the first.
    with path.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > _LARGEST_HEADER:
            raise ValueError(f"it claims a header of {length:,} bytes, as no model has")
        json.loads(opened.read(length), object_pairs_hook=_distinct)


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("its header has two entries of one name")


def _decoded(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if CONFIG_KEY not in metadata:
        return {}
    try:
        return {CONFIG_KEY: parsed_json(metadata[CONFIG_KEY])}
    except ValueError as error:
        raise CheckpointError(f"{path} has a model_config that is not JSON") from error


def _other_kind(start: bytes) -> str:
    if not start:
        return "an empty file"
    if start.startswith(_PICKLE):
        return "a pickle, as PyTorch before 1.6 saved: if you trust it, save its state_dict with today's"
    if start == _LFS:
        return "a pointer of Git LFS: fetch the file itself with `git lfs pull`"
    return "something else"


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].strip().rstrip(".") if lines and lines[0].strip() else type(error).__name__
