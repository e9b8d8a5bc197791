"""Evaluations within a run: all processes take part, and any of them may be asked to stop in their midst."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from clipkit.model.clip import Clip
from clipkit.train.distributed import World
from clipkit.train.interrupt import Interruption


class Together:
    """What evaluators know of the run's processes: this one is `rank` of `size`, and sums over all of them.

    Before each sum the processes tell each other whether one was asked to stop: none waits for it then.
    """

    def __init__(self, world: World, interruption: Interruption, say: Callable[[str], None] | None):
        self._world = world
        self._interruption = interruption
        self._say = say
        self.rank = world.rank
        self.size = world.size

    def total(self, values: Tensor) -> Tensor:
        """Sum of a tensor on the CPU over all processes, of one shape in each; all call it together."""
        with self._interruption.noted_only():  # leaving within a sum, a process would hang the others
            self.meet()
            return self._world.total(values)

    def say(self, line: str) -> None:
        """Tell the user, if this is the first process."""
        if self._say is not None:
            self._say(line)

    def meet(self) -> None:
        """Wait for all processes. Raises _Stopped in each if one was asked to stop."""
        if self._world.largest(self._interruption.number)[0]:
            raise _Stopped


class _Stopped(Exception):  # noqa: N818
    pass


Evaluator = Callable[[Clip, Together], Iterable[tuple[str, float]]]
"""Yields the names and values of its figures for a model in evaluation mode, the same in each process."""


def evaluate(
    model: Clip,
    evaluators: Sequence[Evaluator],
    world: World,
    interruption: Interruption,
    say: Callable[[str], None] | None,
) -> dict[str, float] | None:
    """Return the figures of all evaluators, None if the run was asked to stop.

    All processes call it together. The random state and the modules' modes are left as they were; what batch
    norm has counted is the first process's in all of them, as it is in checkpoints.
    """
    together = Together(world, interruption, say)
    figures: dict[str, float] = {}
    world.copy_first(model.buffers())
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad(), torch.random.fork_rng([world.device] if world.device.type == "cuda" else []):
        try:
            with interruption.ending_waits():
                for evaluator in evaluators:
                    figures |= dict(evaluator(model, together))
            together.meet()
        except _Stopped:
            return None  # half of an evaluation is none: continuing the run begins with it
        except KeyboardInterrupt:
            if not interruption.number:
                raise
            world.largest(interruption.number)  # the others hear it where they meet next
            return None
        finally:
            for module, training in modes:
                module.training = training
    return figures
