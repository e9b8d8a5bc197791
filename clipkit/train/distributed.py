"""The processes of a run: one alone, or those that torchrun started, one a device."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from clipkit.errors import ConfigError, TrainError

# Process 0 evaluates alone while the others wait in a collective; torchrun itself ends them if it dies.
_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class World:
    """This process among the run's: `rank` of `size`, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's files and speaks to the user."""
        return self.rank == 0

    def largest(self, *numbers: int) -> list[int]:
        """Largest of the processes' numbers, of each for itself; all call it together."""
        if self.size == 1:
            return list(numbers)
        shared = torch.tensor(numbers)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return [int(each) for each in shared]

    def mean(self, values: Tensor) -> Tensor:
        """Mean of a tensor over the processes; all call it together."""
        if self.size == 1:
            return values
        return self.total(values) / self.size

    def total(self, values: Tensor) -> Tensor:
        """Sum of a tensor over the processes; all call it together."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Fill the tensors with the first process's; all call it together."""
        for each in tensors if self.size > 1 else ():
            dist.broadcast(each, src=0)

    def gather(self, values: Tensor) -> list[Tensor]:
        """Tensors of one shape from all processes, in rank order; all call it together."""
        if self.size == 1:
            return [values]
        gathered = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(gathered, values)
        return gathered

    def barrier(self) -> None:
        """Wait for all processes."""
        self.largest(0)


@contextmanager
def open_world(device: str | None = None) -> Iterator[World]:
    """Join the processes of torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK); without it, be one alone.

    Within another `open_world`, or after the caller's own `init_process_group`, that group is used and stays.
    `device` is "cpu", "cuda" or None for a GPU if there is one. Raises ConfigError for a device that is not
    there; what is raised inside because another process is gone comes out as TrainError.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    rank, size, local_rank = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    if kind == "cuda" and torch.cuda.device_count() <= local_rank:
        found = torch.cuda.device_count()
        raise ConfigError(
            f"process {local_rank} of this machine needs a GPU of its own, found {found} GPUs: "
            "start fewer processes, or train on the CPU"
        )
    if kind == "cuda":
        torch.cuda.set_device(local_rank)
    world = World(rank, size, torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind))
    if size == 1 or dist.is_initialized():
        yield world
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield world
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):  # gloo's are plain ones
            raise
        raise TrainError(
            f"process {rank} of {size}: the connection to the others broke, one of them has ended: "
            "mend what its last line says, and run the same command again"
        ) from error
    finally:
        dist.destroy_process_group()
