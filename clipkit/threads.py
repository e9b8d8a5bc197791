"""Work in threads that no process waits for at its end."""

import atexit
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

Thing = TypeVar("Thing")
Result = TypeVar("Result")

_AT_END_SECONDS = 10.0  # at most, for what takes a moment


def in_thread(work: Callable[[], Result], otherwise: Result, name: str) -> Future[Result]:
    """Begin `work` in a thread of that name; it gives `otherwise` if it raises, or if there are no more."""
    answer: Future[Result] = Future()

    def answered() -> None:
        result = otherwise
        try:
            result = work()
        finally:
            answer.set_result(result)

    try:
        threading.Thread(target=answered, name=name, daemon=True).start()
    except RuntimeError:  # no more threads
        answer.set_result(otherwise)
    return answer


def mapped_in_threads(
    function: Callable[[Thing], Result], things: Sequence[Thing], threads: int, ahead: int = 4
) -> Iterator[Result]:
    """Yield `function` of each thing, in order, made by so many threads, from the first `next` on.

    For each thread there are at the most `ahead` results that are being made or wait to be taken.
    Raises what `function` raises. Whoever stops early, or is interrupted, waits for none of them: they are
    daemons, and begin nothing more. Only the process's end waits for a `function` that is under way, as
    `finished_before_the_end` has it.
    """
    changed = threading.Condition()
    made: dict[int, tuple[Any, BaseException | None]] = {}
    begun = taken = 0
    is_stopped = False

    def work() -> None:
        nonlocal begun
        while True:
            with changed:
                while not is_stopped and begun >= taken + ahead * threads:
                    changed.wait()
                if is_stopped or begun == len(things):
                    return
                place, begun = begun, begun + 1
            with finished_before_the_end():
                result = _result_or_error(function, things[place])
                with changed:
                    if not is_stopped:
                        made[place] = result
                        changed.notify_all()
                del result  # which may be the end of objects of C++

    for _ in range(min(threads, len(things))):
        threading.Thread(target=work, name="mapped", daemon=True).start()
    try:
        for place in range(len(things)):
            with changed:
                while place not in made:
                    changed.wait()
                result, error = made.pop(place)
                taken += 1
                changed.notify_all()
            if error is not None:
                raise error
            yield result
    finally:
        with changed:
            is_stopped = True
            made.clear()
            changed.notify_all()


def _result_or_error(
    function: Callable[[Thing], Result], thing: Thing
) -> tuple[Any, None] | tuple[None, BaseException]:
    try:
        return function(thing), None
    except BaseException as error:
        return None, error


class _Finishing:
    """Counts the daemons that do what has to be finished; as the process ends, none begins any more."""

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(after_in_child=self._renew)
        atexit.register(self._wait)

    def begin(self) -> None:
        with self._changed:
            while self._is_at_end:  # the thread goes with the process
                self._changed.wait()
            self._busy += 1

    def end(self) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()

    def _renew(self) -> None:
        self._changed = threading.Condition()
        self._busy = 0
        self._is_at_end = False

    def _wait(self) -> None:
        with self._changed:
            self._is_at_end = True
            self._changed.wait_for(lambda: not self._busy, timeout=_AT_END_SECONDS)


_finishing = _Finishing()
_here = threading.local()


@contextmanager
def finished_before_the_end() -> Iterator[None]:
    """What a daemon thread does inside, the process's end waits for: ten seconds at most.

    For code of C++ that lets other threads run (pyarrow, PyTorch, OpenCV): Python ends a daemon that comes
    back from there as the process ends, and C++ aborts the whole process then, with SIGABRT.
    """
    with _waited_for(True):
        yield


@contextmanager
def not_waited_for() -> Iterator[None]:
    """What a daemon thread does inside, the process's end does not wait for, whatever it is part of.

    For what may last and is of Python alone: the network, locks, reading large files through.
    """
    with _waited_for(False):
        yield


@contextmanager
def _waited_for(wanted: bool) -> Iterator[None]:
    before = getattr(_here, "is_waited_for", False)
    _wait_for_this_thread(before, wanted)
    try:
        yield
    finally:
        _wait_for_this_thread(wanted, before)


def _wait_for_this_thread(before: bool, wanted: bool) -> None:
    if before == wanted or not threading.current_thread().daemon:  # the end waits for all other threads
        return
    (_finishing.begin if wanted else _finishing.end)()
    _here.is_waited_for = wanted
