"""Files of `torch.save` and `torch.jit.save`, read without torch's loaders and without running anything.

Both are zip files of a pickle and of the bytes that its tensors are made of. The pickle becomes plain Python
with `StoredTensor` where tensors stand; the bytes are read one tensor's storage after the other.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from clipkit.errors import CheckpointError
from clipkit.model.formats.pickles import (
    LARGEST_PICKLE,
    Function,
    PickleError,
    RecordClass,
    UnknownNameError,
    unpickle,
)
from clipkit.model.formats.zip_file import CheckedZip

_MOST_DIMENSIONS = 32
_LONGEST_NOTE = 1 << 10
_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}


@dataclass(frozen=True)
class Storage:
    """Bytes of the file that tensors are made of: the member `data/KEY`, as `count` values of one type."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is not read yet; the place of each of its values lies within its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class NotDense:
    """A tensor that has no values of its own in the file: sparse, quantized, without memory and the like."""


class PytorchFile:
    """An open file; what is wrong with it is a CheckpointError that names it."""

    def __init__(self, opened: BinaryIO, path: Path) -> None:
        self.path = path
        self._zip = CheckedZip(opened, path)
        self._storages: dict[str, Tensor] = {}
        if "data.pkl" not in self._zip:
            raise CheckpointError(f"{path} is a zip file, but not of PyTorch")
        if "byteorder" in self._zip and self._zip.read("byteorder", _LONGEST_NOTE) != b"little":
            raise CheckpointError(f"{path} was not written by a little-endian machine: save it anew on one")

    @property
    def is_torchscript(self) -> bool:
        """Whether `torch.jit.save` wrote it: a program beside its tensors."""
        return "constants.pkl" in self._zip

    def content(self, tensor: Callable[[StoredTensor], Any]) -> Any:
        """Return what was saved: plain Python, with `tensor(stored)` where a tensor stands.

        Of a TorchScript archive it is a Record of attributes, among them other such Records.
        """
        data = self._zip.read("data.pkl", LARGEST_PICKLE)
        names = _names(lambda *arguments: tensor(_stored_tensor(*arguments)))

        def find(name: str) -> Any:
            if name in names:
                return names[name]
            if self.is_torchscript and name.startswith("__torch__."):
                return RecordClass(name)
            raise UnknownNameError(name)

        try:
            return unpickle(data, find, self._storage)
        except UnknownNameError as error:
            raise CheckpointError(
                f"{self.path} asks to run code when it is opened ({str(error)[:100]}): refused; "
                "if you trust it, torch.save its state_dict alone"
            ) from error
        except PickleError as error:
            raise CheckpointError(f"{self.path} is damaged or hostile: {error}") from error

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Read a tensor onto the CPU. Those of one storage share its memory, as they did when saved."""
        storage = stored.storage
        if storage.key not in self._storages:
            values = torch.empty(storage.count * storage.dtype.itemsize, dtype=torch.uint8)
            self._zip.read_into(f"data/{storage.key}", values.numpy().data)
            self._storages[storage.key] = values
        memory = self._storages[storage.key].untyped_storage()
        empty = torch.empty(0, dtype=storage.dtype)
        return empty.set_(memory, stored.offset, stored.shape, stored.strides)

    def check_rest(self) -> None:
        """Check what was not read against its CRC-32."""
        self._zip.check_rest()

    def _storage(self, found: Any) -> Storage:
        match found:
            case ("storage", torch.dtype() as dtype, str(key), str(), int(count)) if count >= 0:
                claimed, there = count * dtype.itemsize, self._zip.size(f"data/{key}")
                if there is None:
                    raise PickleError(f"its pickle names the bytes {key[:40]!r}, which are not there")
                if claimed != there:
                    raise PickleError(
                        f"it claims {_digits(claimed)} bytes for data/{key}, which holds {there:,}"
                    )
                return Storage(dtype, key, count)
        raise PickleError("its pickle names bytes in a way that PyTorch does not")


def _stored_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> StoredTensor:
    whole = (_is_size(offset), _are_sizes(shape), _are_sizes(strides))
    if not isinstance(storage, Storage) or not all(whole) or len(shape) != len(strides):
        raise PickleError("it describes a tensor in a way that PyTorch does not")
    if len(rest) > 2 and rest[2]:  # the values are to be read as negated or conjugated
        raise PickleError("it holds a tensor whose values stand for others")
    values = math.prod(shape)
    if values > storage.count:
        size = storage.dtype.itemsize
        stored = f"of which it stores {storage.count * size:,}"
        raise PickleError(f"it holds a tensor of {_digits(values * size)} bytes, {stored}")
    if not values and math.prod(filter(None, shape)) >= 1 << 63:  # torch multiplies from the first side on
        raise PickleError("it describes a tensor in a way that PyTorch does not")
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if values and last >= storage.count:
        raise PickleError("it holds a tensor that reaches beyond its bytes")
    return StoredTensor(storage, offset if values else 0, shape, strides)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _are_sizes(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= _MOST_DIMENSIONS and all(map(_is_size, value))


def _digits(value: int) -> str:
    return f"{value:,}" if value < 1 << 63 else "more than 2⁶³"


def _names(tensor: Callable[..., Any]) -> Mapping[str, Any]:
    first, not_dense = Function(lambda value, *rest: value), Function(lambda *parts: NotDense())
    calls = {
        "collections.OrderedDict": Function(_ordered_dict),
        "_codecs.encode": Function(_encoded),
        "__builtin__.bytes": Function(lambda: b""),
        "builtins.bytes": Function(lambda: b""),
        "torch.Size": Function(lambda sizes: tuple(sizes)),
        "torch.device": first,
        "torch._utils._rebuild_tensor": Function(tensor),
        "torch._utils._rebuild_tensor_v2": Function(tensor),
        "torch._utils._rebuild_parameter": first,
        "torch.jit._pickle.restore_type_tag": first,
    }
    lists = ("intlist", "tensorlist", "doublelist", "boollist")
    calls |= {f"torch.jit._pickle.build_{kind}": Function(lambda values: [*values]) for kind in lists}
    others = ("sparse_tensor", "qtensor", "meta_tensor_no_storage", "nested_tensor", "wrapper_subclass")
    calls |= {f"torch._utils._rebuild_{kind}": not_dense for kind in others}
    calls["torch.serialization._get_layout"] = not_dense
    storages = {f"torch.{kind}Storage": dtype for kind, dtype in _STORAGES.items()}
    return {**calls, **storages, **{str(dtype): dtype for dtype in _STORAGES.values()}}


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    if pairs:  # as Python 2 wrote it; its keys would have to be checked
        raise PickleError("its pickle is of Python 2")
    return {}


def _encoded(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise TypeError
    return text.encode("latin1")
