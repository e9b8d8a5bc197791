"""How signals end the command: in order, at once, and never in vain."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_AGAIN_SECONDS = 0.01


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt and SIGTERM SystemExit of 143; a second one ends at once.

    Who ignores Ctrl-C may go on doing so. What is raised while Python itself runs code, at the end of a
    generator that nobody holds any more, say, is lost there; it is raised again a moment later. Libraries
    that end after this cannot be interrupted.
    """
    ending = _Ending(sys.unraisablehook)
    signal.signal(signal.SIGTERM, ending.begin)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, ending.begin)
    sys.unraisablehook = ending.ignored
    try:
        yield
    finally:
        if not ending.number:  # else the process ends, and objects with it
            sys.unraisablehook = ending.tell
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) == ending.begin:
                signal.signal(number, signal.SIG_DFL)
        ending.close()


@contextmanager
def own_signals() -> Iterator[None]:
    """Put the handlers of Ctrl-C and SIGTERM back that a library called inside replaces by its own.

    SIGTERM that comes meanwhile ends the command with 143, also where the library's handler ends it with 15.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit as ending:
        if ending.code == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Ending:
    def __init__(self, tell: "Callable[[sys.UnraisableHookArgs], object]"):
        self.number = 0  # of the signal that came
        self.tell = tell
        self._is_lost = False

    def begin(self, number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait until all is put in order
        self.number, self._is_lost = number, False
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    def ignored(self, report: "sys.UnraisableHookArgs") -> None:
        if not self.number:
            self.tell(report)
        elif isinstance(report.exc_value, KeyboardInterrupt | SystemExit) and _in_main_thread():
            self._is_lost = True
            # Not at once: here it would be lost again.
            signal.signal(signal.SIGALRM, lambda alarm, frame: self.begin(self.number, frame))
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
        # Else it is what an object says that was interrupted.

    def close(self) -> None:
        if self._is_lost:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.begin(self.number, None)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
