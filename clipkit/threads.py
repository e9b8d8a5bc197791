"""Work in threads that no process waits for at its end."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

Thing = TypeVar("Thing")
Result = TypeVar("Result")


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
    daemons, and begin nothing more.
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
            try:
                result: tuple[Any, BaseException | None] = function(things[place]), None
            except BaseException as error:
                result = None, error
            with changed:
                made[place] = result
                changed.notify_all()

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
            changed.notify_all()
