"""The samples of a run that could not be read: one count and one list for all its processes and sittings."""

import json
from collections.abc import Callable, Sequence

import torch

from clipkit.shards.bad_samples import BadCount, BadSample
from clipkit.train.distributed import World
from clipkit.train.state import TrainState


class RunBadCount:
    """Counts what the processes of a run could not read, in each the same, and keeps it in their `state`.

    A process tells those of a batch with `add`, and with `trained` that the batch was; `share`, which all
    call together where they meet anyway, counts them. `say` is told of each, in the first process alone.
    Allowed is what `BadCount` allows.
    """

    def __init__(
        self, most: float, batch_size: int, state: TrainState, world: World, say: Callable[[str], None] | None
    ):
        self._batch_size = batch_size
        self._state = state
        self._world = world
        self._count = BadCount(most, say or _silent, state.bad)
        self._untrained: list[str] = []
        self._own: list[str] = []

    def add(self, found: Sequence[BadSample], seen: int) -> None:
        """Keep those of a batch until it is trained on; how many samples were seen follows from the state."""
        self._untrained += map(str, found)

    def trained(self) -> None:
        """Keep those of the last batch until they are shared. Without this, a resumed run reads it again."""
        self._own += self._untrained
        self._untrained.clear()

    @property
    def waiting(self) -> int:
        """The bytes of what this process has to share."""
        return len(self._packed()) if self._own else 0

    def share(self, most: int) -> None:
        """Count what all have kept; `most` is the largest of their `waiting`.

        Raises DatasetError, in all processes alike, if there are too many by now.
        """
        if not most:
            return
        packed = self._packed()
        padded = torch.tensor(list(packed.ljust(most)), dtype=torch.uint8)
        bad = [each for own in self._world.gather(padded) for each in json.loads(bytes(own.tolist()))]
        self._own.clear()
        self._count.add(bad, self._state.step * self._batch_size)

    def _packed(self) -> bytes:
        return json.dumps(self._own).encode()


def _silent(line: str) -> None:
    pass
