"""Files that no honest program writes, made of the parts that PyTorch's and safetensors' files have."""

import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipkit.model.clip import Clip
from clipkit.model.formats.openai_shapes import BUFFERS

FLOATS = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@dataclass(frozen=True)
class Bytes:
    """The persistent id of a storage."""

    key: Any = "0"
    count: Any = 4
    kind: Any = torch.FloatStorage
    word: str = "storage"


@dataclass(frozen=True)
class Rebuilt:
    """A tensor, as a call of torch's function with these arguments."""

    storage: Any = Bytes()
    offset: Any = 0
    shape: Any = (4,)
    strides: Any = (1,)
    rest: tuple[Any, ...] = (False, {})

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.storage, self.offset, self.shape, self.strides, *self.rest)
        return torch._utils._rebuild_tensor_v2, arguments


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return (value.word, value.kind, value.key, "cpu", value.count) if isinstance(value, Bytes) else None


def pickled(value: Any, protocol: int = 2) -> bytes:
    data = io.BytesIO()
    _Pickler(data, protocol).dump(value)
    return data.getvalue()


def zipped(path: Path, data: bytes, more: Mapping[str, bytes] | None = None, compressed: int = 0) -> Path:
    """A zip file of PyTorch with this pickle, 16 bytes as storage 0, and what else is given."""
    with zipfile.ZipFile(path, "w", compressed) as archive:
        for name, content in {
            "data.pkl": data,
            "data/0": bytes(16),
            "version": b"3\n",
            **(more or {}),
        }.items():
            archive.writestr(f"a/{name}", content)
    return path


def safetensors(path: Path, header: Any, data: bytes = bytes(8), length: int | None = None) -> Path:
    """A safetensors file with this header, as JSON or as bytes, and any claim about its length."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def traced(clip: Clip, path: Path, change: Mapping[str, Any] | None = None) -> Path:
    """A TorchScript archive with these weights and OpenAI's three numbers, some changed or left out."""
    sizes = (clip.config.image_size, clip.context_length, clip.vocab_size)
    tensors = {**clip.state_dict(), **dict(zip(BUFFERS, map(torch.tensor, sizes), strict=True))}
    return scripted({**tensors, **(change or {})}, path)


def scripted(tensors: Mapping[str, torch.Tensor | None], path: Path) -> Path:
    """A TorchScript archive of these tensors and of no program worth the name."""
    root = nn.Module()
    for name, tensor in tensors.items():
        holder, (*parents, last) = root, name.split(".")
        for parent in parents:
            if parent not in dict(holder.named_children()):
                holder.add_module(parent, nn.Module())
            holder = holder.get_submodule(parent)
        if tensor is not None:
            holder.register_buffer(last, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.script(root), str(path))
    return path
