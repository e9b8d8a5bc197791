"""Reading other people's PyTorch files without running what is in them."""

import os
import pickle
import warnings
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clipkit.errors import CheckpointError

SAFETENSORS_SUFFIX = ".safetensors"
READABLE = "a clipkit or OpenCLIP checkpoint, or a .safetensors file that clipkit wrote"


def read_pytorch(path: Path) -> Any:
    """Plain Python and tensors that `torch.save` put into `path`, on the CPU; nothing in it is executed.

    Raises CheckpointError for a file that is missing, cut short, damaged, compressed (a checkpoint never is;
    a zip bomb is), of another format, that asks for any code to be run, or that holds a tensor larger than
    its bytes.
    """
    _check_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and the like: the checks here decide
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} asks to run code when it is opened ({_named(error)}): refused"
        ) from error
    except Exception as error:  # damaged or hostile bytes raise anything
        if is_out_of_memory(error):
            raise CheckpointError(f"{path} asks for more memory than there is: refused") from error
        raise CheckpointError(f"{path} is damaged: {_first_line(error)}; fetch or write it anew") from error
    _check_tensors_are_stored(content, path)
    return content


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises CheckpointError if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no safetensors file that can be read: {_first_line(error)}"
        ) from error


def is_model_file(path: Path) -> bool:
    """Whether a file looks like one of these formats, by its directory or header alone."""
    try:
        with path.open("rb") as stream:
            if stream.read(9)[8:] == b"{":  # safetensors: the header's length, then the header, JSON
                return True
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch's allocator for the CPU had no more memory to give."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _check_tensors_are_stored(content: Any, path: Path) -> None:
    # With strides of 0 a tensor of a few bytes has any size, and every copy of it takes that size.
    # No recursion: a pickle may be nested to any depth, and hold itself.
    waiting, seen = [content], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple | set):
            waiting += value
        elif isinstance(value, Tensor) and value.layout == torch.strided:
            claimed, stored = value.numel() * value.element_size(), value.untyped_storage().nbytes()
            if claimed > stored:
                sizes = f"{claimed:,} bytes, of which it stores {stored:,}"
                raise CheckpointError(f"{path} holds a tensor of {sizes}: refused")


def _check_zip(path: Path) -> None:
    try:
        with path.open("rb") as opened:
            start = opened.read(4)
            size = opened.seek(0, os.SEEK_END)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; expected {READABLE}") from error
    if start != b"PK\x03\x04":
        found = "an empty file" if not start else "something else"
        raise CheckpointError(f"{path} is {found}; expected {READABLE}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is cut short or damaged; fetch or write it anew") from error
    names = [member.filename.rpartition("/")[2] for member in members]
    if "constants.pkl" in names:
        raise CheckpointError(f"{path} is a TorchScript archive, which is a program; expected {READABLE}")
    if "data.pkl" not in names:
        raise CheckpointError(f"{path} is a zip file, but not of PyTorch; expected {READABLE}")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(f"{path} holds compressed data, which no checkpoint does: refused")
    claimed = sum(member.file_size for member in members)
    if claimed > size:
        raise CheckpointError(f"{path} claims to hold {claimed:,} bytes in its {size:,}: refused")


def _named(error: pickle.UnpicklingError) -> str:
    # torch's text is a page; the name of what was asked for follows "GLOBAL" in it.
    words = str(error).replace("`", " ").split()
    after = [following for word, following in pairwise(words) if word == "GLOBAL"]
    return after[0] if after else "a pickle that is not plain data"


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].strip().rstrip(".") if lines and lines[0].strip() else type(error).__name__
