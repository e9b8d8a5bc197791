"""Ranks as threads of this process; tests/train/test_distributed has real ones, started by torchrun."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from torch import Tensor

from clipkit.evaluate.ranks import Ranks

Result = TypeVar("Result")


class Thread:
    """One of several, whose sums are taken over what all bring to a barrier."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, brought: dict[int, Tensor]):
        self.rank, self.size = rank, size
        self.said: list[str] = []
        self._barrier, self._brought = barrier, brought

    def total(self, values: Tensor) -> Tensor:
        self._brought[self.rank] = values.clone()
        self._barrier.wait(60)
        shapes = {(each.shape, each.dtype) for each in self._brought.values()}
        assert len(shapes) == 1, shapes
        total = self._brought[0].clone()
        for rank in range(1, self.size):
            total += self._brought[rank]
        self._barrier.wait(60)
        return total

    def say(self, line: str) -> None:
        self.said.append(line)


def in_each_rank(size: int, work: Callable[[Ranks], Result]) -> list[Result]:
    """What `work` returns in each of `size` ranks."""
    barrier, brought = threading.Barrier(size), dict[int, Tensor]()

    def run(rank: int) -> Result:
        try:
            return work(Thread(rank, size, barrier, brought))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))
