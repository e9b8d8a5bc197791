"""How a batch is shared out: over the processes, and each share over the parts of a step."""

from clipkit.errors import ConfigError
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
