"""Evaluation by several processes: each takes its part of the batches, and all get the same figures.

A batch has the same pictures in it whoever computes it, and what is added up is exact, so that the figures
are those of one process bit for bit, where their machines compute alike.
"""

import json
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from clipkit.agreement import Peers


class Ranks(Peers, Protocol):
    """The processes that evaluate together."""

    def say(self, line: str) -> None:
        """Tell the user, if this process is the one that speaks."""


class _Alone:
    rank = 0
    size = 1

    def say(self, line: str) -> None:
        pass  # who evaluates alone gets a result, in which all stands

    def total(self, values: Tensor) -> Tensor:
        return values


ALONE: Ranks = _Alone()
"""One process that does all of it."""


def own_batches(items: int, batch_size: int, ranks: Ranks) -> list[range]:
    """The batches of `items` in their order that this process takes: every `size`th one."""
    firsts = range(ranks.rank * batch_size, items, ranks.size * batch_size)
    return [range(first, min(first + batch_size, items)) for first in firsts]


def all_numbered(own: Sequence[tuple[int, str]], ranks: Ranks) -> dict[int, str]:
    """The numbered texts of all processes, by their numbers in order; all call it together."""
    packed = torch.frombuffer(bytearray(json.dumps(list(own)).encode()), dtype=torch.uint8)
    lengths = torch.zeros(ranks.size, dtype=torch.int64)
    lengths[ranks.rank] = len(packed)
    lengths = ranks.total(lengths)
    rows = torch.zeros(ranks.size, int(lengths.max()), dtype=torch.uint8)
    rows[ranks.rank, : len(packed)] = packed
    found: list[tuple[int, str]] = []
    for row, length in zip(ranks.total(rows), lengths.tolist(), strict=True):
        found += json.loads(row[:length].numpy().tobytes())
    return dict(sorted(found))


def first_tensor(values: Tensor, ranks: Ranks) -> Tensor:
    """The first process's tensor, of one shape in each and on the CPU; all call it together."""
    return ranks.total(values if ranks.rank == 0 else torch.zeros_like(values))


def first_text(text: str, ranks: Ranks) -> str:
    """The first process's text; all call it together."""
    return all_numbered([(0, text)] if ranks.rank == 0 else [], ranks)[0]
