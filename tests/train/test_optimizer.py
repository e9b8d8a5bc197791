import pytest

from clipkit.model.clip import build
from clipkit.model.config import named_config
from clipkit.train.optimizer import AdamSettings, make_optimizer, set_learning_rate

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
