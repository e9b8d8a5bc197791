"""`torchrun two_passes.py`: fails where the first gradients of one batch differ from the second."""

import torch

from clipkit.shards.loader import Batch
from clipkit.train.distributed import open_world
from clipkit.train.optimizer import AdamSettings, make_optimizer
from clipkit.train.schedule import Schedule
from clipkit.train.step import TrainStep, wrapped_features
from tests.train.global_batch import VIT, make_batch, prepared

if __name__ == "__main__":
    torch.set_num_threads(1)
    with open_world("cpu") as world:
        model = prepared(VIT)
        optimizer = make_optimizer(model, AdamSettings((0.9, 0.98), 1e-6, 0.2))
        unmoved = Schedule(0.0, 0, 10)
        step = TrainStep(model, wrapped_features(model, world), optimizer, unmoved, world, "fp32", None)
        whole = make_batch(model.config.image_size)
        own = slice(world.rank, None, world.size)
        batch = Batch(whole.images_BCHW[own], whole.tokens_BL[own], whole.positions_B[own])
        gradients = []
        for number in range(2):
            step(batch, number, with_norm=False)
            gradients.append(
                {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
            )
        first, second = gradients
        others = [name for name in first if not torch.equal(first[name], second[name])]
        assert not others, f"{len(others)} of {len(first)} gradients differ, such as that of {others[0]}"
