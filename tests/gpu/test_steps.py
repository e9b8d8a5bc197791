"""What a step computes on a GPU: what it does on the CPU in float32, but for rounding."""

from collections.abc import Iterator

import pytest
import torch

from clipkit.model.clip import Clip, build
from clipkit.model.config import ClipConfig
from clipkit.model.memory_layout import fast_layout
from clipkit.train.config import Precision
from clipkit.train.distributed import World
from clipkit.train.precision import tf32
from clipkit.train.step import TrainStep
from tests.train.test_step import RESNET, VIT, make_batch, make_step

GPU = torch.device("cuda", 0)
ON_GPU = World(0, 1, GPU)
# Of losses near ln 8 and of gradients' norms, relative; 8 and 10 bits of mantissa round the layers' results.
TOLERANCE: dict[Precision, tuple[float, float]] = {
    "fp32": (1e-4, 1e-3),
    "bf16": (0.02, 0.1),
    "fp16": (0.005, 0.05),
}

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]
models = pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    with tf32(False, GPU):
        yield


def model_of(config: ClipConfig, device: torch.device) -> Clip:
    return fast_layout(build(config, seed=1).to(device)).train()


def trained(step: TrainStep, steps: int = 4) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step but those that fp16 skips while its scale is too large."""
    found = []
    for number in range(steps):
        figures = step(make_batch(number), number, with_norm=True)
        assert figures.norm is not None and figures.loss.device.type == step.world.device.type
        if figures.skipped is None or not figures.skipped:
            found.append((figures.loss.item(), figures.norm.item()))
    return found


@models
@pytest.mark.parametrize("precision", TOLERANCE)
def test_steps_are_those_of_the_cpu_in_float32(config: ClipConfig, precision: Precision) -> None:
    of_loss, of_norm = TOLERANCE[precision]
    step = make_step(model_of(config, GPU), precision=precision, world=ON_GPU)
    if precision == "fp16":
        step.scaler = torch.amp.GradScaler(GPU.type, init_scale=2.0**8)
    expected = trained(make_step(model_of(config, torch.device("cpu"))))
    found = trained(step)
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in expected], rel=of_loss)
    assert [norm for _, norm in found] == pytest.approx([norm for _, norm in expected], rel=of_norm)
    assert {each.dtype for each in step.model.parameters()} == {torch.float32}


@models
def test_channels_last_trains_the_same(config: ClipConfig) -> None:
    plain = trained(make_step(build(config, seed=1).to(GPU).train(), world=ON_GPU))
    found = trained(make_step(model_of(config, GPU), world=ON_GPU))
    for one, other in zip(found, plain, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


@models
def test_the_fused_optimizer_makes_the_steps_of_the_plain_one(config: ClipConfig) -> None:
    steps = [make_step(model_of(config, GPU), world=ON_GPU) for _ in range(2)]
    groups = steps[1].optimizer.param_groups
    steps[1].optimizer = torch.optim.AdamW(
        [{"params": each["params"], "weight_decay": each["weight_decay"]} for each in groups],
        lr=0.0,
        betas=groups[0]["betas"],
        eps=groups[0]["eps"],
        fused=False,
    )
    assert steps[0].optimizer.defaults["fused"]
    for number in range(4):
        for step in steps:
            step(make_batch(number), number, with_norm=False)
        for one, other in zip(*(step.model.parameters() for step in steps), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        steps[1].model.load_state_dict(steps[0].model.state_dict())  # else rounding grows from step to step


@models
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_steps_are_the_others(config: ClipConfig, precision: Precision) -> None:
    torch.compiler.reset()
    plain = trained(make_step(model_of(config, GPU), precision=precision, world=ON_GPU))
    compiled = trained(make_step(model_of(config, GPU), precision=precision, world=ON_GPU, compiled=True))
    for one, other in zip(compiled, plain, strict=True):
        assert one == pytest.approx(other, rel=TOLERANCE[precision][1])
