"""The head, its scale, and the loss of a step, by the paper's formula."""

import pytest
import torch
from torch.nn import functional

from clipkit.finetune.classifier import ClassifierStep, Logits, add_head, clip_weights, head_weights
from clipkit.model.clip import Clip, build
from clipkit.model.config import named_config
from clipkit.model.preprocess import normalize
from clipkit.shards.loader import Batch
from clipkit.train.distributed import World
from clipkit.train.optimizer import AdamSettings, make_optimizer
from clipkit.train.schedule import Schedule

WEIGHTS_DN = functional.normalize(torch.randn(64, 5, generator=torch.Generator().manual_seed(1)), dim=0)


def classifier(*, freeze_image: bool = False) -> Clip:
    clip = build(named_config("ViT-Micro/16@32px"), seed=0)
    add_head(clip, WEIGHTS_DN, freeze_image=freeze_image)
    return clip


def step_of(clip: Clip, label_smoothing: float = 0.0) -> ClassifierStep:
    optimizer = make_optimizer(clip, AdamSettings((0.9, 0.999), 1e-8, 0.1))
    world = World(0, 1, torch.device("cpu"))
    return ClassifierStep(
        clip,
        Logits(clip),
        optimizer,
        Schedule(1e-3, 1, 10),
        world,
        "fp32",
        1.0,
        label_smoothing=label_smoothing,
    )


def batch() -> Batch:
    random = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=random)
    return Batch(images, torch.tensor([[0], [1], [2], [3], [4], [2]]), torch.arange(6))


def test_logits_are_scale_times_feature_times_head() -> None:
    clip = classifier()
    images, labels = torch.randn(3, 3, 32, 32), torch.tensor([[2], [0], [1]])
    logits_BN, labels_B = Logits(clip)(images, labels)
    features_BD = functional.normalize(clip.encode_image(images), dim=-1)
    assert torch.allclose(logits_BN, clip.logit_scale.exp() * features_BD @ WEIGHTS_DN, atol=1e-5)
    assert labels_B.tolist() == [2, 0, 1]
    assert torch.allclose(head_weights(clip), WEIGHTS_DN, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_cross_entropy_with_smoothed_labels(smoothing: float) -> None:
    clip = classifier()
    found = step_of(clip, smoothing)(batch(), 0, with_norm=False).loss
    clip = classifier()
    logits_BN, labels_B = Logits(clip)(normalize(batch().images_BCHW), batch().tokens_BL)
    log_p_BN = logits_BN.log_softmax(1)
    likely_B = log_p_BN.gather(1, labels_B[:, None])[:, 0]
    expected = -((1 - smoothing) * likely_B + smoothing * log_p_BN.mean(1)).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("freeze_image", [False, True])
def test_a_step_changes_image_tower_and_head_and_nothing_else(freeze_image: bool) -> None:
    clip = classifier(freeze_image=freeze_image)
    with torch.no_grad():
        clip.logit_scale.fill_(5.0)  # beyond what training from scratch allows
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    step_of(clip)(batch(), 0, with_norm=False)
    changed = {name for name, value in clip.state_dict().items() if not torch.equal(value, before[name])}
    assert "head_DN" in changed
    assert ("visual.conv1.weight" in changed) is not freeze_image
    assert all(name == "head_DN" or name.startswith("visual.") for name in changed)
    assert clip_weights(before).keys() == build(clip.config).state_dict().keys()
