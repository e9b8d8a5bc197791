"""A copy in the host's memory of what training goes on to change."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Snapshot:
    """Copies tensors into memory that the next copy uses again, so that a process takes it once.

    With a GPU that memory is page-locked: the copy then is as fast as the bus.
    """

    def __init__(self, page_locked: bool) -> None:
        self._page_locked = page_locked
        self._kept: dict[tuple[Any, ...], Tensor] = {}

    def of(self, content: Any) -> Any:
        """Return `content`, tensors and plain Python, with each tensor copied; good until the next call."""
        copied = self._copy(content, ())
        if self._page_locked:
            torch.cuda.synchronize()
        return copied

    def _copy(self, value: Any, where: tuple[Any, ...]) -> Any:
        if isinstance(value, Tensor):
            return self._memory(value, where).copy_(value.detach(), non_blocking=True)
        if isinstance(value, Mapping):
            return {key: self._copy(part, (*where, key)) for key, part in value.items()}
        if isinstance(value, list | tuple):
            parts = [self._copy(part, (*where, place)) for place, part in enumerate(value)]
            return tuple(parts) if isinstance(value, tuple) else parts
        return value

    def _memory(self, tensor: Tensor, where: tuple[Any, ...]) -> Tensor:
        kept = self._kept.get(where)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            # In rows, as files hold it, however the tensor lies.
            pin = self._page_locked and tensor.is_cuda
            kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pin)
            self._kept[where] = kept
        return kept
