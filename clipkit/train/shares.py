"""How a batch is shared out: over data sets and processes, and each share over the parts of a step."""

from clipkit.errors import ConfigError
from clipkit.shards.mixture import Mixture
from clipkit.shards.sample_set import SampleSet
from clipkit.train.config import TrainConfig


def check_shares(config: TrainConfig, processes: int) -> None:
    """Raise ConfigError for a batch that the processes and the parts of a step cannot share evenly."""
    share, left = divmod(config.batch_size, processes)
    if left:
        step = processes * config.accumulate
        near = {max(1, config.batch_size // step) * step, (config.batch_size // step + 1) * step}
        raise ConfigError(
            f"batch size {config.batch_size} is not a multiple of the {processes} processes: choose "
            f"--batch-size {' or '.join(map(str, sorted(near)))}, or another number with --processes"
        )
    if share % config.accumulate:
        whose = (
            f"a process's share of the batch, {share} samples," if processes > 1 else f"batch size {share}"
        )
        raise ConfigError(f"{whose} is not a multiple of --accumulate {config.accumulate}")


def check_mixture(config: TrainConfig, shards: SampleSet | Mixture) -> None:
    """Raise ConfigError for a batch that would hold a sample of one of a mixture's data sets twice."""
    batch = config.overfit or config.batch_size
    mixed = zip(shards.sets, shards.shares, strict=True) if isinstance(shards, Mixture) else ()
    for each, share in mixed:
        if batch * share > len(each):
            raise ConfigError(
                f"{each.source}: expected more samples than a batch takes of it, found {len(each):,}, and "
                f"{float(share):.1%} of {batch:,} are more: choose a smaller --batch-size or --weight"
            )
