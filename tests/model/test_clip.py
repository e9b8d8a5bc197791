from typing import Any

import pytest
import torch

from clipkit.model.clip import build, without_padding
from clipkit.model.config import ClipConfig, named_config
from clipkit.model.formats.open_clip import to_json
from tests.model.conftest import SMALL, inputs, openai_peer, short_texts, trained_looking

WHOLE = [pytest.param(named_config(name), marks=pytest.mark.slow, id=name) for name in ("RN50", "ViT-B/32")]
CONFIGS = [*(pytest.param(config, id=name) for name, config in SMALL.items()), *WHOLE]


@pytest.mark.parametrize("config", CONFIGS)
def test_one_seed_gives_the_weights_that_openais_code_draws(openai_clip: Any, config: ClipConfig) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        theirs = openai_peer(openai_clip, config).state_dict()
    ours = build(config, seed=5).state_dict()
    assert list(ours) == list(theirs)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("config", CONFIGS)
def test_features_and_logits_are_those_of_openais_code(openai_clip: Any, config: ClipConfig) -> None:
    ours, theirs = trained_looking(config), openai_peer(openai_clip, config)
    theirs.load_state_dict(ours.state_dict())
    _assert_same_outputs(ours, theirs, config)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("config", CONFIGS)
def test_features_and_logits_are_those_of_open_clip(
    open_clip: Any, config: ClipConfig, activation: str
) -> None:
    config = config.model_copy(update={"activation": activation})
    ours, theirs = trained_looking(config), open_clip.CLIP(**to_json(config)).eval()
    theirs.load_state_dict(ours.state_dict())
    images, tokens = inputs(config)
    with torch.inference_mode():
        output = ours.features(images, tokens)
        their_images, their_texts, their_scale = theirs(images, tokens)
    assert _difference(output.image_features_BD, their_images) < 1e-5
    assert _difference(output.text_features_BD, their_texts) < 1e-5
    assert output.logit_scale.item() == their_scale.item()


def test_the_activation_matters(small: ClipConfig) -> None:
    quick = trained_looking(small)
    plain = build(small.model_copy(update={"activation": "gelu"})).eval()
    plain.load_state_dict(quick.state_dict())
    _, tokens = inputs(small)
    with torch.inference_mode():
        assert _difference(quick.encode_text(tokens), plain.encode_text(tokens)) > 1e-4


def test_a_text_has_the_same_features_beside_longer_ones_and_alone(small: ClipConfig) -> None:
    clip = trained_looking(small)
    _, tokens = inputs(small)
    with torch.inference_mode():
        together = clip.encode_text(tokens)
        alone = torch.cat([clip.encode_text(row[None]) for row in tokens])
        assert _difference(together, alone) < 1e-5


def test_an_empty_batch_has_no_features(small: ClipConfig) -> None:
    images, tokens = inputs(small)
    with torch.inference_mode():
        output = build(small, 0).eval().features(images[:0], tokens[:0])
    assert output.image_features_BD.shape == output.text_features_BD.shape == (0, small.embed_dim)


def test_what_follows_the_end_of_a_text_changes_nothing(small: ClipConfig) -> None:
    clip = trained_looking(small)
    _, tokens = inputs(small)
    dirty = tokens.clone()
    dirty[2, 2:] = 17
    with torch.inference_mode():
        assert torch.equal(clip.encode_text(tokens), clip.encode_text(dirty))


def test_short_texts_are_cut_and_have_the_features_that_openais_code_finds_at_full_length(
    openai_clip: Any, small: ClipConfig
) -> None:
    ours, theirs = trained_looking(small), openai_peer(openai_clip, small)
    theirs.load_state_dict(ours.state_dict())
    lengths: list[int] = []
    ours.transformer.register_forward_pre_hook(lambda module, given: lengths.append(given[0].shape[1]))
    with torch.inference_mode():
        for tokens, length in ((short_texts(small), 16), (inputs(small)[1], 77)):
            assert _difference(ours.encode_text(tokens), theirs.encode_text(tokens)) < 1e-5  # type: ignore[operator]
            assert lengths.pop() == length


def test_trimmed_texts_have_the_very_same_features(small: ClipConfig) -> None:
    clip = trained_looking(small)
    tokens = inputs(small)[1][2:]  # their ends are at 1 and 9
    trimmed = without_padding(tokens)
    assert trimmed.shape == (2, 16) and torch.equal(trimmed, tokens[:, :16])
    assert without_padding(trimmed).shape == (2, 16)
    assert without_padding(inputs(small)[1]).shape == (4, 77)
    with torch.inference_mode():
        assert torch.equal(clip.encode_text(trimmed), clip.encode_text(tokens))


def test_the_model_reads_no_tokens_that_are_on_a_device(small: ClipConfig) -> None:
    # On the meta device there is nothing to read: whatever waits for values fails.
    clip, (_, tokens) = build(small, 0).to("meta"), inputs(small)
    assert clip.encode_text(tokens.to("meta")).shape == (4, small.embed_dim)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_texts_on_cuda_wait_for_nothing(small: ClipConfig) -> None:
    clip, tokens = trained_looking(small).cuda(), inputs(small)[1].cuda()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        clip.encode_text(tokens)
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_a_seed_decides_the_weights_and_leaves_the_global_generator_alone(small: ClipConfig) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = build(small, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = build(small, seed=3), build(small, seed=4)
    assert torch.equal(one.text_projection, again.text_projection)
    assert not torch.equal(one.text_projection, other.text_projection)
    unseeded = build(small)
    assert not torch.equal(torch.random.get_rng_state(), before)
    assert unseeded.config == small


def test_features_have_unit_length_and_every_parameter_learns(small: ClipConfig) -> None:
    clip = trained_looking(small).train()
    images, tokens = inputs(small, pictures=4)
    output = clip.features(images, tokens)
    assert output.image_features_BD.norm(dim=1).allclose(torch.ones(4))
    assert output.text_features_BD.norm(dim=1).allclose(torch.ones(4))
    logits = output.logit_scale * output.image_features_BD @ output.text_features_BD.t()
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    without = [n for n, p in clip.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


def test_attributes_that_scripts_for_openais_package_read(small: ClipConfig) -> None:
    clip = build(small, 0)
    assert clip.visual.input_resolution == small.image_size
    assert (clip.context_length, clip.vocab_size) == (77, 49_408)
    assert clip.dtype == torch.float32
    assert clip.logit_scale.exp().item() == pytest.approx(1 / 0.07)


def _assert_same_outputs(ours: Any, theirs: Any, config: ClipConfig) -> None:
    images, tokens = inputs(config)
    with torch.inference_mode():
        pairs = [
            (ours.encode_image(images), theirs.encode_image(images)),
            (ours.encode_text(tokens), theirs.encode_text(tokens)),
            *zip(ours(images, tokens), theirs(images, tokens), strict=True),
        ]
    assert [tuple(one.shape) for one, _ in pairs][2:] == [(3, 4), (4, 3)]
    scale = max(1.0, float(pairs[0][1].abs().max()))
    assert max(_difference(one, other) for one, other in pairs) < 1e-5 * scale


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())
