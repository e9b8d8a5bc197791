"""What processes that work together must agree on, which several machines may see differently."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

_DIGEST_BYTES = 7


class Peers(Protocol):
    """Processes that work together: this one is `rank` of `size`."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def total(self, values: Tensor) -> Tensor:
        """Sum of a tensor on the CPU over all processes, of one shape in each; all call it together."""


def differing(things: Mapping[str, Any], peers: Peers) -> list[str]:
    """Return the names of those `things`, plain JSON, that are not the same in all processes.

    All call it together, with as many things, and get the same.
    """
    if peers.size == 1:
        return []
    texts = [json.dumps(thing, sort_keys=True) for thing in things.values()]
    digests = [hashlib.sha256(text.encode()).digest()[:_DIGEST_BYTES] for text in texts]
    rows = torch.zeros(peers.size, len(digests), dtype=torch.int64)
    rows[peers.rank] = torch.tensor([int.from_bytes(digest) for digest in digests])
    rows = peers.total(rows)
    same = (rows == rows[0]).all(dim=0)
    return [name for name, is_same in zip(things, same.tolist(), strict=True) if not is_same]
