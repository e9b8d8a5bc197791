"""Ending a run on request: the step at hand is finished and a checkpoint written before the process goes."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from clipkit.errors import TrainError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_ONE_REQUEST_SECONDS = 1.0


class TrainInterrupted(TrainError):  # noqa: N818
    """The run was asked to stop, did so, and can be continued.

    `exit_code` is the shell's for the signal: 130 for SIGINT (Ctrl-C), 143 for SIGTERM, and 138 for SIGUSR1,
    which Slurm's `--signal=USR1@SECONDS` sends before the time is up.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


class Interruption:
    """Context in which SIGINT, SIGTERM and SIGUSR1 are only noted, the first in `number` (0: none came).

    Launchers and schedulers repeat themselves: a terminal and torchrun both send SIGINT, Slurm sends SIGTERM
    after SIGUSR1, and SIGKILL if that takes too long. So further ones change nothing, but for a second SIGINT
    a second later, which acts as it did before: nobody is kept from leaving at once. In a thread other than
    the main one nothing is caught.
    """

    def __init__(self) -> None:
        self.number = 0
        self._noted = 0.0
        self._ends_wait = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        try:
            for each in _SIGNALS:
                self._before[each] = signal.signal(each, self._note)
        except ValueError:  # not the main thread
            self._before.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    @contextmanager
    def ending_waits(self) -> Iterator[None]:
        """Raise KeyboardInterrupt at the first signal, also one before: what is waited for may never come."""
        self._ends_wait = True
        try:
            if self.number:
                raise KeyboardInterrupt
            yield
        finally:
            self._ends_wait = False

    @contextmanager
    def noted_only(self) -> Iterator[None]:
        """Within `ending_waits`, raise for a signal only at the end: what stands inside is done whole."""
        before, self._ends_wait = self._ends_wait, False
        try:
            yield
        finally:
            self._ends_wait = before
        if before and self.number:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            if number == signal.SIGINT and time.monotonic() > self._noted + _ONE_REQUEST_SECONDS:
                self._restore()
                signal.raise_signal(number)
            return
        self.number, self._noted = number, time.monotonic()
        if self._ends_wait:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before.clear()
