"""Waiting for data: whether the device waited too, and the line that says so and what to do."""

from collections.abc import Callable

import torch

from clipkit.cpus import available_cpus

_WORTH_SAYING = 0.05
_MUCH = 0.2
_SECONDS = 20.0


class DeviceQueue:
    """What the device has been given to do. The CPU does all of it at once."""

    def __init__(self, device: torch.device):
        self._last = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def mark(self) -> None:
        """Note that a step was given to the device."""
        if self._last is not None:
            self._last.record()

    @property
    def is_empty(self) -> bool:
        """Whether the device has done all that was given before `mark`: it has nothing left to do."""
        return self._last is None or bool(self._last.query())  # type: ignore[no-untyped-call]


class Bottleneck:
    """Says when training waits for data more than 5% of the time, and again when that changes by 20%.

    Judged are stretches of 20 s of training, without the first line of a sitting, while the loaders start.
    """

    def __init__(self, workers: int, say: Callable[[str], None]):
        self._workers = workers
        self._say = say
        self._told = 0.0
        self._seconds = self._waited = 0.0
        self._warm = False

    def add(self, seconds: float, waited: float) -> None:
        """Take the next line's seconds of training, and those of them spent waiting."""
        if not self._warm:
            self._warm = True
            return
        self._seconds += seconds
        self._waited += waited
        if self._seconds < _SECONDS:
            return
        share = self._waited / self._seconds
        self._seconds = self._waited = 0.0
        if abs(share - self._told) > (_MUCH if self._told else _WORTH_SAYING):
            self._told = share
            self._say(self._line(share))

    def _line(self, share: float) -> str:
        if share <= _WORTH_SAYING:
            return f"bottleneck: training hardly waits for data any more, {share:.0%} of the time"
        cpus = available_cpus()
        if not self._workers:
            remedy = "each batch is made between two steps: give --workers"
        elif self._workers < cpus:
            remedy = f"try more --workers than {self._workers}, of {cpus} CPUs"
        else:
            remedy = f"--workers {self._workers} are as many as CPUs already"
        return (
            f"bottleneck: training waits for data {share:.0%} of the time; {remedy}; "
            "`clipkit shards bench DIR` says what limits reading and what to change"
        )
