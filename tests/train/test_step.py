"""What one training step does. Whole runs beside OpenCLIP's are in test_open_clip_losses.py."""

import pytest
import torch

from clipkit.model.clip import Clip, build
from clipkit.model.config import ClipConfig, ResNetConfig, TextConfig, ViTConfig
from clipkit.shards.loader import Batch
from clipkit.train.config import Precision
from clipkit.train.distributed import World
from clipkit.train.optimizer import AdamSettings, make_optimizer
from clipkit.train.schedule import Schedule
from clipkit.train.step import TrainStep, wrapped_features

ALONE = World(0, 1, torch.device("cpu"))
TEXT = TextConfig(context_length=12, vocab_size=100, width=64, heads=1, layers=2)
VIT = ClipConfig(
    name="small-vit",
    embed_dim=32,
    vision=ViTConfig(layers=2, width=64, patch_size=16, image_size=32),
    text=TEXT,
)
RESNET = ClipConfig(
    name="small-resnet",
    embed_dim=32,
    vision=ResNetConfig(layers=(1, 1, 1, 1), width=32, image_size=32),
    text=TEXT,
)
PEAK, WARMUP, STEPS, SAMPLES = 1e-3, 10, 40, 8


def make_step(
    model: Clip,
    grad_clip: float | None = None,
    precision: Precision = "fp32",
    peak: float = PEAK,
    world: World = ALONE,
    compiled: bool = False,
) -> TrainStep:
    optimizer = make_optimizer(model, AdamSettings((0.9, 0.98), 1e-6, 0.2))
    schedule, features = Schedule(peak, WARMUP, STEPS), wrapped_features(model, world, compiled)
    return TrainStep(model, features, optimizer, schedule, world, precision, grad_clip, compiled=compiled)


def make_batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images_BCHW = torch.randint(0, 256, (SAMPLES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    tokens_BL = torch.randint(1, 90, (SAMPLES, 12), generator=generator)
    tokens_BL[:, -1] = 99  # the end of the text is its largest token
    return Batch(images_BCHW, tokens_BL, torch.arange(SAMPLES))


def test_texts_are_trimmed_before_they_go_to_the_device_and_train_the_same() -> None:
    batch = make_batch(0)
    batch.tokens_BL[:, 5], batch.tokens_BL[:, 6:] = 99, 0
    steps, lengths = [make_step(build(VIT, seed=1)) for _ in range(2)], []
    steps[0].features.register_forward_pre_hook(lambda _, given: lengths.append(given[1].shape[1]))
    losses = [steps[0](batch, 5, with_norm=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipkit.train.step.without_padding", lambda tokens_BL: tokens_BL)
        losses.append(steps[1](batch, 5, with_norm=True))
    assert lengths == [8]
    assert losses[0] == losses[1]
    weights, others = (step.model.state_dict() for step in steps)
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])
def test_gradient_checkpointing_trains_the_very_same_weights(
    config: ClipConfig, precision: Precision
) -> None:
    steps = [make_step(build(config, seed=1), precision=precision) for _ in range(2)]
    steps[1].model.set_gradient_checkpointing(True)
    kept, again = ([each(make_batch(k), k, with_norm=True) for k in range(3)] for each in steps)
    assert kept == again
    weights, others = (step.model.state_dict() for step in steps)
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []


def test_a_repeated_batch_is_learned() -> None:
    step = make_step(build(VIT, seed=1), peak=3e-3)
    losses = [step(make_batch(0), 10, with_norm=False)[0].item() for _ in range(30)]
    assert losses[0] > 1.5
    assert losses[-1] < 0.1


def test_the_norm_is_that_of_the_whole_gradient_and_clipping_bounds_it() -> None:
    free, clipped = make_step(build(VIT, seed=1)), make_step(build(VIT, seed=1), grad_clip=0.5)
    norms = [each(make_batch(0), 0, with_norm=True)[1] for each in (free, clipped)]
    gradients = [
        torch.cat([p.grad.double().flatten() for p in each.model.parameters() if p.grad is not None])
        for each in (free, clipped)
    ]
    assert norms[0] is not None and norms[1] is not None
    assert norms[0].item() == pytest.approx(gradients[0].norm().item(), rel=1e-4)
    assert norms[1].item() == pytest.approx(norms[0].item(), rel=1e-5)
    assert norms[0] > 0.5
    assert gradients[1].norm().item() == pytest.approx(0.5, rel=1e-4)


def test_the_norm_is_not_computed_unasked() -> None:
    assert make_step(build(VIT, seed=1))(make_batch(0), 0, with_norm=False)[1] is None


def test_the_logit_scale_never_passes_100() -> None:
    model = build(VIT, seed=1)
    with torch.no_grad():
        model.logit_scale.fill_(7.0)
    make_step(model)(make_batch(0), 0, with_norm=False)
    assert model.logit_scale.exp().item() == pytest.approx(100, rel=1e-6)


def test_bf16_keeps_weights_in_single_precision_and_the_loss_near() -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        step = make_step(build(VIT, seed=1), precision=precision)
        losses[precision] = [step(make_batch(k), k, with_norm=False)[0].item() for k in range(5)]
        assert {p.dtype for p in step.model.parameters()} == {torch.float32}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.05)
