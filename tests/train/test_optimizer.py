import pytest
import torch

from clipkit.model.clip import build
from clipkit.model.config import named_config
from clipkit.model.memory_layout import fast_layout
from clipkit.train.optimizer import AdamSettings, load_optimizer, make_optimizer, set_learning_rate

SETTINGS = AdamSettings((0.9, 0.98), 1e-6, 0.2)


def in_open_clips_undecayed_group(name: str, ndim: int) -> bool:
    """The rule written out in open_clip_train 3.3.0's main."""
    return ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name


@pytest.mark.parametrize("model", ["ViT-Micro/16@32px", "RN50"])
def test_groups_are_open_clips(model: str) -> None:
    clip = build(named_config(model))
    optimizer = make_optimizer(clip, SETTINGS)
    names = {parameter: name for name, parameter in clip.named_parameters()}
    plain, decayed = ([names[each] for each in group["params"]] for group in optimizer.param_groups)
    expected = [n for n, p in clip.named_parameters() if in_open_clips_undecayed_group(n, p.ndim)]
    assert plain == expected
    assert sorted(plain + decayed) == sorted(names.values())
    assert {"logit_scale", "ln_final.weight", "transformer.resblocks.0.mlp.c_fc.bias"} <= set(plain)
    assert {"token_embedding.weight", "positional_embedding", "text_projection"} <= set(decayed)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.2]
    assert all(group["betas"] == (0.9, 0.98) and group["eps"] == 1e-6 for group in optimizer.param_groups)


def test_frozen_parameters_are_left_out() -> None:
    clip = build(named_config("ViT-Micro/16@32px"))
    clip.visual.requires_grad_(False)
    optimizer = make_optimizer(clip, SETTINGS)
    held = {id(each) for group in optimizer.param_groups for each in group["params"]}
    assert held == {id(p) for n, p in clip.named_parameters() if not n.startswith("visual.")}


def test_the_rate_is_set_in_both_groups() -> None:
    optimizer = make_optimizer(build(named_config("ViT-Micro/16@32px")), SETTINGS)
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


def test_moments_that_come_from_a_file_lie_as_the_weights_do() -> None:
    stored, clip = (build(named_config("RN-Mini@64px"), seed=0) for _ in range(2))
    optimizers = [make_optimizer(each, SETTINGS) for each in (stored, fast_layout(clip))]
    for weight in stored.parameters():
        weight.grad = torch.randn_like(weight)
    optimizers[0].step()
    load_optimizer(optimizers[1], optimizers[0].state_dict())
    theirs = list(optimizers[0].state.values())
    mine = list(optimizers[1].state.items())
    assert len(mine) == len(theirs) > 50
    for (parameter, state), other in zip(mine, theirs, strict=True):
        assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()
        assert all(torch.equal(state[name], other[name]) for name in ("step", "exp_avg", "exp_avg_sq"))
