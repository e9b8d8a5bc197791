"""How signals end the command: in order, at once, and never in vain."""

import signal
import sys
import threading
from collections.abc import Iterator
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
    before = sys.unraisablehook

    def lost(report: "sys.UnraisableHookArgs") -> None:
        number = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}.get(report.exc_type)
        in_main = threading.current_thread() is threading.main_thread()
        if number is None or not in_main or signal.getsignal(number) is not signal.SIG_DFL:
            before(report)
            return
        # Not at once: here it would be lost again.
        signal.signal(signal.SIGALRM, lambda alarm, frame: _ended(number, frame))
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)

    signal.signal(signal.SIGTERM, _ended)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _ended)
    sys.unraisablehook = lost
    try:
        yield
    finally:
        sys.unraisablehook = before
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is _ended:
                signal.signal(number, signal.SIG_DFL)


def _ended(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # a second one does not wait until all is put in order
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
