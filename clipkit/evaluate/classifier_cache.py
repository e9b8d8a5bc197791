"""Zero-shot classifiers kept in the user's cache: the prompts of one model and one list are encoded once.

A file is named by a SHA-256 of all that the numbers depend on, and holds a SHA-256 of that name and of the
numbers, then these (float32, little endian). What is not exactly that is computed again and replaced.
"""

import hashlib
import json
import os
import platform
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipkit import atomic
from clipkit._version import VERSION
from clipkit.evaluate.classes import ClassSet
from clipkit.model.clip import Clip
from clipkit.shards.cache import user_cache

MOST_BYTES = 1 << 28
"""Beyond it, those not used for the longest time go: ImageNet's of a ViT-B/32 has 2 MB."""

_FORMAT = 1
_STALE_SECONDS = 3600  # a writer that is silent so long has ended
_CHECK_BYTES = 32
_FLOAT = np.dtype("<f4")


class ClassifierCache:
    """The classifiers of one model in `folder`, which need not be there.

    `weights_sha256` is that of the model's file. A folder that cannot be read or written is as if it were
    empty: no error comes from here.
    """

    def __init__(
        self, model: Clip, weights_sha256: str, folder: Path | None = None, *, most_bytes: int = MOST_BYTES
    ) -> None:
        self.folder = folder or user_cache() / "classifiers"
        self._most_bytes = most_bytes
        self._model = model
        self._of_model = {"weights_sha256": weights_sha256, **_computing(model)}

    def find(self, classes: ClassSet) -> torch.Tensor | None:
        """Return the weights (D, N) that `keep` got for these classes, on the model's device, or None."""
        shape = (self._model.config.embed_dim, len(classes))
        path = self._path(classes)
        data = _read(path, _CHECK_BYTES + shape[0] * shape[1] * _FLOAT.itemsize)
        if data is None or data[:_CHECK_BYTES] != _check(path, data[_CHECK_BYTES:]):
            return None
        with suppress(OSError):
            os.utime(path)
        weights = np.frombuffer(data, _FLOAT, offset=_CHECK_BYTES).astype(np.float32).reshape(shape)
        return torch.from_numpy(weights).to(self._model.logit_scale.device)

    def keep(self, classes: ClassSet, weights_DN: torch.Tensor) -> None:
        """Keep the weights of these classes, if there is room for them."""
        path = self._path(classes)
        numbers = np.ascontiguousarray(weights_DN.cpu().numpy(), _FLOAT).tobytes()
        data = _check(path, numbers) + numbers
        if len(data) > self._most_bytes:
            return
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(len(data))
            with atomic.replaced(path, writer=str(os.getpid())) as temporary:
                temporary.write_bytes(data)

    def _path(self, classes: ClassSet) -> Path:
        key = self._of_model | {
            "names_sha256": classes.names_sha256,
            "templates_sha256": classes.templates_sha256,
        }
        return self.folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()

    def _make_room(self, needed: int) -> None:
        files = []
        for entry in os.scandir(self.folder):
            found = entry.stat(follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                continue
            if entry.name.startswith("."):
                if time.time() - found.st_mtime > _STALE_SECONDS:
                    Path(entry.path).unlink(missing_ok=True)
                continue
            files.append((found.st_mtime_ns, found.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total + needed <= self._most_bytes:
                break
            Path(path).unlink(missing_ok=True)
            total -= size


def device_name(device: torch.device) -> str:
    """The GPU's product name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _computing(model: Clip) -> Mapping[str, Any]:
    """What decides about the last digits, beside the weights and the prompts."""
    device = model.logit_scale.device
    return {
        "format": _FORMAT,
        "clipkit": VERSION,
        "code": _code_sha256(),
        "torch": str(torch.__version__),
        "model": model.config.model_dump(mode="json"),
        "dtype": str(model.dtype),
        "device": device_name(device),
        "cpu": [platform.node(), platform.machine(), torch.backends.cpu.get_cpu_capability()],
        "threads": torch.get_num_threads(),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@cache
def _code_sha256() -> str:
    """That of the files that compute, so that one who works on them is given no numbers of before."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in (root / "zero_shot.py", *sorted((root.parent / "model").rglob("*.py"))):
        with suppress(OSError):  # packed away, where they do not change
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _check(path: Path, numbers: bytes) -> bytes:
    return hashlib.sha256(path.name.encode() + numbers).digest()


def _read(path: Path, size: int) -> bytes | None:
    """Return the content of a regular file of that size, else None; nothing is followed or waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            return None
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(size)
    except OSError:
        return None
    finally:
        os.close(descriptor)
