"""The resume record: all that a run is beside its weights and its optimizer's moments."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from clipkit.shards.bad_samples import Bad
from clipkit.shards.mixture import Mixture
from clipkit.shards.plan import BLOCK, ShardPlan
from clipkit.shards.sample_set import SampleSet
from clipkit.train.config import TrainConfig
from clipkit.train.distributed import World
from clipkit.train.length import run_length


@dataclass
class TrainState:
    """Where a run stands: steps trained, the losses since the last line of metrics, and the time spent.

    And what could not be read of the samples so far, of all processes; and how many steps fp16 skipped, in
    all and just now one after the other.
    """

    step: int = 0
    loss_sum: float | Tensor = 0.0
    loss_steps: int | Tensor = 0
    seconds: float = 0.0
    waited: float = 0.0
    bad: Bad = field(default_factory=Bad)
    skipped: int | Tensor = 0
    skipped_in_row: int | Tensor = 0

    def add_step(self, loss: Tensor, skipped: Tensor | None) -> None:
        """Count one step, and its loss; all stay on their device.

        Where a step may be skipped, a loss that is not finite is one of those whose step was, and not added.
        """
        self.step += 1
        if skipped is None:
            self.loss_sum, self.loss_steps = self.loss_sum + loss, self.loss_steps + 1
            return
        finite = loss.isfinite()
        self.loss_sum = self.loss_sum + torch.where(finite, loss, 0)
        self.loss_steps = self.loss_steps + finite
        self.skipped = self.skipped + skipped
        self.skipped_in_row = (self.skipped_in_row + 1) * skipped

    def as_record(self, world: World) -> dict[str, Any]:
        """Return the state as plain values, with each process's losses; all processes call it together."""
        loss_sum = torch.as_tensor(self.loss_sum, dtype=torch.float32, device="cpu")
        return {
            "loss_sum": [float(each) for each in world.gather(loss_sum)],
            "loss_steps": int(self.loss_steps),
            "seconds": self.seconds,
            "waited": self.waited,
            "bad": asdict(self.bad),
            "skipped": [int(self.skipped), int(self.skipped_in_row)],
        }

    @classmethod
    def from_record(cls, step: int, record: dict[str, Any], world: World) -> "TrainState":
        """Return what `as_record` stored; with another number of processes, each takes the mean loss."""
        sums = record["loss_sum"]
        own = sums[world.rank] if len(sums) == world.size else sum(sums) / len(sums)
        bad = Bad(int(record["bad"]["count"]), [str(each) for each in record["bad"]["named"]])
        skipped, in_row = map(int, record["skipped"])
        return cls(step, own, record["loss_steps"], record["seconds"], record["waited"], bad, skipped, in_row)


def run_settings(config: TrainConfig, shards: SampleSet | Mixture) -> dict[str, Any]:
    """Return what decides a run's numbers, as plain JSON values: its config and the identity of its data."""
    sets = shards.sets if isinstance(shards, Mixture) else (shards,)
    data = {
        "directory": " ".join(each.source for each in sets),
        "fingerprint": shards.fingerprint,
        "samples": run_length(config, len(shards)).epoch_samples,
        "streams": max(ShardPlan(each.sizes, config.seed, config.streams).streams for each in sets),
        "block": BLOCK,
    }
    if isinstance(shards, Mixture):
        data |= {"shares": [str(share) for share in shards.shares], "repeat": shards.repeat}
    return {**config.model_dump(mode="json"), "data": data}


def random_states(world: World) -> dict[str, Any]:
    """Return the states of torch's random generators in each process; all processes call it together."""
    states: dict[str, Any] = {"torch": world.gather(torch.get_rng_state())}
    if world.device.type == "cuda":
        states["cuda"] = world.gather(torch.cuda.get_rng_state(world.device))
    return states


def set_random_states(states: dict[str, Any], world: World) -> None:
    """Restore what `random_states` stored, where the number of processes and the device are the same."""
    if len(states["torch"]) == world.size:
        torch.set_rng_state(states["torch"][world.rank])
    if world.device.type == "cuda" and len(states.get("cuda", ())) == world.size:
        torch.cuda.set_rng_state(states["cuda"][world.rank], world.device)
