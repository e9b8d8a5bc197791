"""One of two processes that train on the same GPU, which NCCL does not do: gloo gathers and sums."""

import sys
from pathlib import Path

import torch.distributed as dist

from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory

if __name__ == "__main__":
    dataset, run, config = sys.argv[1:]
    dist.init_process_group("gloo")
    train(TrainConfig.model_validate_json(config), ShardSet(Path(dataset)), RunDirectory(Path(run)))
    dist.destroy_process_group()
