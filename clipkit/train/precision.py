"""Number formats of a step: autocast, the scale of a loss whose gradients are half precision, and TF32."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from clipkit.train.config import Precision

MOST_SKIPPED = 20
"""Steps in a row that fp16 may skip: after so many halvings the scale is not what is wrong."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """A context in which layers compute in `precision`; weights and sums stay in float32."""
    dtype = _DTYPES.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def gradient_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """The factor that lifts fp16's small gradients (Micikevicius et al. 2018, arXiv 1710.03740), else none.

    It halves, and the step is skipped, where a gradient is not finite; it doubles after 2,000 good steps.
    """
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def load_scaler(scaler: torch.amp.GradScaler, stored: Mapping[str, Any] | None) -> None:
    """Take up what `scaler.state_dict()` was. Raises ValueError or KeyError for anything else."""
    if not scaler.is_enabled():
        return
    state = {name: (stored or {})[name] for name in scaler.state_dict()}
    for name, value in state.items():
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            raise ValueError(f"{name} of its scaler is {value!r:.100}")
    scaler.load_state_dict(state)


def not_half(values: Tensor) -> Tensor:
    """Return half-precision values in float32, any others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@contextmanager
def tf32(allowed: bool, device: torch.device) -> Iterator[None]:
    """Allow or forbid products of float32 numbers with 10 bits of mantissa on CUDA; afterwards as before."""
    if device.type != "cuda":
        yield
        return
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution
