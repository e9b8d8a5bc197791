"""One function over many things in threads that no process waits for at its end."""

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

Thing = TypeVar("Thing")
Result = TypeVar("Result")


def mapped_in_threads(
    function: Callable[[Thing], Result], things: Sequence[Thing], threads: int
) -> Iterator[Result]:
    """Yield `function` of each thing, in order, made by so many threads, from the first `next` on.

    Raises what `function` raises. Whoever stops early, or is interrupted, waits for none of them: they are
    daemons, and begin nothing more.
    """
    made: list[SimpleQueue[tuple[Result | None, BaseException | None]]] = [SimpleQueue() for _ in things]
    wanted: SimpleQueue[int] = SimpleQueue()
    for place in range(len(things)):
        wanted.put(place)
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            try:
                place = wanted.get_nowait()
            except Empty:
                return
            try:
                made[place].put((function(things[place]), None))
            except BaseException as error:
                made[place].put((None, error))

    for _ in range(min(threads, len(things))):
        threading.Thread(target=work, name="mapped", daemon=True).start()
    try:
        for each in made:
            result, error = each.get()
            if error is not None:
                raise error
            yield result  # type: ignore[misc]
    finally:
        stopped.set()
