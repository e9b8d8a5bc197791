"""The processes of a command: one alone, or those that torchrun started, one a device."""

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
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from clipkit.errors import ConfigError, TrainError, tell
from clipkit.launched import TIMEOUT, end_with_launcher, is_launched
from clipkit.progress import be_silent

_JOIN_SECONDS = 600.0


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

    def say(self, line: str) -> None:
        """Tell the user, if this is the first process."""
        if self.is_first:
            tell(line)


def processes_to_start(wanted: int | None) -> int:
    """Return how many processes `launch` is to start: 1 if this one works, by itself or as a rank.

    That is `wanted`, by default one a GPU, or one without a GPU. Raises ConfigError for more than the GPUs,
    and for a number that differs from the launcher's.
    """
    if is_launched():
        started = os.environ.get("LOCAL_WORLD_SIZE")
        if wanted is not None and started is not None and int(started) != wanted:
            raise ConfigError(
                f"--processes {wanted} in a command that a launcher has started {started} times on this "
                "machine: leave it out, the launcher says how many there are"
            )
        return 1
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    count = wanted or gpus or 1
    if gpus and count > gpus:
        raise ConfigError(f"--processes {count}: expected at most one for each GPU, found {gpus} GPUs")
    return count


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
            "start fewer processes, or use the CPU"
        )
    if kind == "cuda":
        torch.cuda.set_device(local_rank)
    world = World(rank, size, torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind))
    if size == 1 or dist.is_initialized():
        yield world
        return
    end_with_launcher()
    if not world.is_first:
        be_silent()
    try:
        _join(world, timeout)
        yield world
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):  # gloo's are plain ones
            raise
        waited = timeout if dist.is_initialized() else max(timeout, _JOIN_SECONDS)
        raise _failure(str(error), world, waited) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _join(world: World, timeout: float) -> None:
    """Make the process group. Processes start at different times: `timeout` counts once all are there."""
    start = timedelta(seconds=max(timeout, _JOIN_SECONDS))
    with _ended_by_signals():
        store, _, _ = next(rendezvous("env://", timeout=start))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"clipkit/{attempt}", store)
        store.set(f"{world.rank}", "there")
        store.wait([f"{rank}" for rank in range(world.size)], start)
        backends = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
        dist.init_process_group(
            backends, store=store, rank=world.rank, world_size=world.size, timeout=timedelta(seconds=timeout)
        )


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
