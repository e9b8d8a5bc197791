"""Reading other people's PyTorch files without running what is in them."""

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
    a zip bomb is), of another format, or that asks for any code to be run.
    """
    _check_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and the like: the checks here decide
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} asks to run code when it is opened ({_named(error)}): refused"
        ) from error
    except MemoryError as error:
        raise CheckpointError(f"{path} asks for more memory than there is: refused") from error
    except Exception as error:  # damaged or hostile bytes raise anything
        raise CheckpointError(f"{path} is damaged: {_first_line(error)}; fetch or write it anew") from error


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises CheckpointError if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no safetensors file that can be read: {_first_line(error)}"
        ) from error


def _check_zip(path: Path) -> None:
    try:
        with path.open("rb") as opened:
            start = opened.read(4)
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


def _named(error: pickle.UnpicklingError) -> str:
    # torch's text is a page; the name of what was asked for follows "GLOBAL" in it.
    words = str(error).replace("`", " ").split()
    after = [following for word, following in pairwise(words) if word == "GLOBAL"]
    return after[0] if after else "a pickle that is not plain data"


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].strip().rstrip(".") if lines and lines[0].strip() else type(error).__name__
