"""How long a run is: epochs, samples and fractions become steps here, once."""

import math
from dataclasses import dataclass

from clipkit.errors import ConfigError
from clipkit.train.config import OVERFIT_PASSES, PAPER_EPOCHS, TrainConfig

PAPER_WARMUP = 2000


@dataclass(frozen=True)
class RunLength:
    """How long a run is: `samples` of the stream in steps of `batch_size`, with `epoch_samples` an epoch."""

    samples: int
    batch_size: int
    epoch_samples: int

    @property
    def steps(self) -> int:
        """Whole batches in the run."""
        return self.samples // self.batch_size

    @property
    def not_trained(self) -> int:
        """Samples at the very end that fill no batch: E·N mod B."""
        return self.samples % self.batch_size

    def epochs_done(self, step: int) -> int:
        """Epochs complete after `step` steps; the last step closes its epoch, `not_trained` or not."""
        position = self.samples if step == self.steps else step * self.batch_size
        return position // self.epoch_samples

    def closes_epoch(self, step: int) -> bool:
        """Whether the batch that ended with `step` took the last sample of an epoch."""
        return step > 0 and self.epochs_done(step) > self.epochs_done(step - 1)

    def crosses(self, step: int, every: int) -> bool:
        """Whether a multiple of `every` samples was reached with `step`."""
        return step * self.batch_size // every > (step - 1) * self.batch_size // every


def evaluation_due(config: TrainConfig, length: RunLength, step: int) -> bool:
    """Whether the model is evaluated after `step` steps: before the first, after the last, and in between."""
    if step in (0, length.steps):
        return True
    if config.evaluate_samples is not None:
        return length.crosses(step, config.evaluate_samples)
    return length.closes_epoch(step) and length.epochs_done(step) % (config.evaluate_epochs or 1) == 0


def run_length(config: TrainConfig, dataset_samples: int) -> RunLength:
    """Convert the run's length into samples and steps once. With `overfit` all of it is one epoch.

    Raises ConfigError for a batch larger than the data set (it would hold a sample twice) or than the run.
    """
    if config.overfit is not None:
        return _overfit_length(config, config.overfit, dataset_samples)
    if config.batch_size > dataset_samples:
        raise ConfigError(
            f"batch size {config.batch_size} is more than the data set's {dataset_samples} samples: "
            "choose a smaller --batch-size"
        )
    samples = config.samples_seen or (config.epochs or PAPER_EPOCHS) * dataset_samples
    if samples < config.batch_size:
        raise ConfigError(f"a run of {samples} samples has no batch of {config.batch_size}: train for longer")
    return RunLength(samples, config.batch_size, dataset_samples)


def _overfit_length(config: TrainConfig, count: int, dataset_samples: int) -> RunLength:
    if not config.batch_size <= count <= dataset_samples:
        raise ConfigError(
            f"--overfit {count}: expected at least a batch of {config.batch_size} samples and at most the "
            f"data set's {dataset_samples}: choose another number, or a smaller --batch-size"
        )
    samples = config.samples_seen or (config.epochs or OVERFIT_PASSES) * count
    return RunLength(samples, config.batch_size, samples)


def warmup_steps(config: TrainConfig, steps: int) -> int:
    """Return the warm-up in steps. Raises ConfigError if it leaves nothing of a run of `steps` steps."""
    if config.warmup is None:
        return min(PAPER_WARMUP, steps // 10)
    warmup = math.floor(config.warmup * steps) if config.warmup < 1 else int(config.warmup)
    if warmup >= steps:
        raise ConfigError(
            f"warm-up of {warmup} steps in a run of {steps} steps: choose fewer, or a fraction like 0.1"
        )
    return warmup
