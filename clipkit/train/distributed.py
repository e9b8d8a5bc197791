"""The processes of a run: one alone, or those that torchrun started, one a device."""

import os
import re
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from clipkit.errors import ConfigError, TrainError
from clipkit.launched import end_with_launcher
from clipkit.train.config import TIMEOUT


class ProcessLostError(TrainError):
    """Another process of the run is gone; what ended it is the other's to tell."""


class ProcessHangsError(TrainError):
    """Another process of the run did not answer in time."""


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
def open_world(device: str | None = None, timeout: float = TIMEOUT) -> Iterator[World]:
    """Join the processes of torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK); without it, be one alone.

    Within another `open_world`, or after the caller's own `init_process_group`, that group is used and stays.
    `device` is "cpu", "cuda" or None for a GPU if there is one; `timeout` are the seconds that the processes
    wait for one another. Raises ConfigError for a device that is not there; what is raised inside because
    another process is gone or hangs comes out as ProcessLostError or ProcessHangsError.
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
    end_with_launcher()
    try:
        with _ended_by_signals():
            backends = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
            dist.init_process_group(backends, timeout=timedelta(seconds=timeout))
        yield world
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):  # gloo's are plain ones
            raise
        raise _failure(str(error), world, timeout) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Joining waits where Python cannot act on signals: inside, Ctrl-C and SIGTERM end a process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _failure(found: str, world: World, timeout: float) -> TrainError:
    who = f"process {world.rank} of {world.size}"
    if re.search(r"time[d ]?\s?out", found, re.IGNORECASE):
        return ProcessHangsError(
            f"{who}: waited {timeout:g} s for another process, which hangs, is out of reach or needs longer: "
            "mend it, or give more --timeout, and run the same command again"
        )
    return ProcessLostError(
        f"{who}: the connection to the others broke, one of them has ended: "
        "mend what its last line says, and run the same command again"
    )
