"""Functions over many things in real processes, some of which die."""

import multiprocessing
import os
import signal
import time

import pytest

from clipkit.shards.pool import Died, mapped


def doubled(number: int) -> int:
    return 2 * number


def deadly(number: int) -> int:
    if number in (3, 11):
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def refusing(number: int) -> int:
    raise LookupError(f"not {number}")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_are_in_order(workers: int) -> None:
    assert list(mapped(doubled, range(20), workers)) == [(number, 2 * number) for number in range(20)]


def test_who_dies_of_a_thing_takes_no_other_along() -> None:
    found = list(mapped(deadly, range(20), 2))
    assert [number for number, _ in found] == list(range(20))
    assert [number for number, result in found if isinstance(result, Died)] == [3, 11]
    assert all(result == 2 * number for number, result in found if not isinstance(result, Died))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_raised_comes_out(workers: int) -> None:
    with pytest.raises(LookupError, match="not 0"):
        list(mapped(refusing, range(3), workers))


def test_what_is_left_early_ends_its_own_processes_and_no_others() -> None:
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(120,))
    other.start()
    try:
        made = mapped(doubled, range(20), 2)
        next(made)
        own = set(multiprocessing.active_children()) - {other}
        made.close()  # type: ignore[attr-defined]
        other.join(0.5)
        assert own and not any(each.is_alive() for each in own)
        assert other.is_alive()
    finally:
        other.kill()
        other.join()
