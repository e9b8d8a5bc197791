"""AdamW with decay on weights only, as in the CLIP paper: none for gains, biases and the logit scale."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clipkit.model.memory_layout import laid_out_as


@dataclass(frozen=True)
class AdamSettings:
    """AdamW's constants (Loshchilov and Hutter, arXiv 1711.05101); the learning rate is set at each step."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float


def decayed(parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices and kernels.

    Gains, biases, the logit scale and the class embedding, all vectors or scalars, are left alone: the same
    split as OpenCLIP's.
    """
    return parameter.ndim >= 2


def make_optimizer(model: nn.Module, settings: AdamSettings) -> torch.optim.AdamW:
    """Return AdamW over the model's trainable parameters in two groups: not decayed, decayed.

    The groups hold the parameters in the model's order, so that a saved state fits whoever builds it again.
    The fused kernel goes over memory once, on the CPU too.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if not decayed(p)], "weight_decay": 0.0},
        {"params": [p for p in trainable if decayed(p)], "weight_decay": settings.weight_decay},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, fused=True)


def load_optimizer(optimizer: torch.optim.Optimizer, stored: dict[str, Any]) -> None:
    """Take up a saved state, its tensors laid out as the parameters are: the fast kernels need them alike.

    Raises ValueError or KeyError for the state of another optimizer.
    """
    optimizer.load_state_dict(stored)
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = laid_out_as(value, parameter)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
