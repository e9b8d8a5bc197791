"""One step on 64 samples is the same step however they are shared out: over processes, over micro-batches."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clipkit.errors import ConfigError
from clipkit.model.preprocess import normalize
from clipkit.train.config import Precision, TrainConfig
from clipkit.train.distributed import World
from clipkit.train.loss import clip_loss
from clipkit.train.shares import check_shares
from tests.train.global_batch import FEW, RANKS, RESNET, VIT, make_batch, measure, prepared
from tests.train.launching import launched
from tests.train.test_run import lines, run_it

ALONE = World(0, 1, torch.device("cpu"))


def whole(label: str) -> dict[str, Any]:
    """The step of one process on the whole batch at once."""
    name, how = RANKS[label]
    return measure(ALONE, name, **{key: how[key] for key in ("dtype", "grad_clip", "lock") if key in how})


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("four")
    launched(4, Path(__file__).with_name("global_batch.py"), out)
    return out


def assert_same_step(found: dict[str, Any], expected: dict[str, Any]) -> None:
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=0, atol=1e-6)
    torch.testing.assert_close(found["norm"], expected["norm"], rtol=1e-5, atol=0)
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in found["gradients"].items():
        if gradient is None or expected["gradients"][name] is None:
            assert gradient is expected["gradients"][name], name
            continue
        torch.testing.assert_close(gradient, expected["gradients"][name], rtol=0, atol=1e-5, msg=name)
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    for name, value in expected["state_dict"].items():
        if "running" in name or "tracked" in name:
            torch.testing.assert_close(found["state_dict"][name], value, rtol=1e-5, atol=1e-6, msg=name)


def assert_all_make_the_same_step(out: Path, ranks: int, labels: Collection[str]) -> None:
    found = [torch.load(out / f"steps_{rank}.pt", weights_only=True) for rank in range(ranks)]
    assert all(each.keys() == set(labels) for each in found)
    for label in labels:
        expected = whole(label)
        assert expected["norm"] > 1  # where clipping is asked for, it bites
        for each in found:
            assert_same_step(each[label], expected)


def test_two_processes_make_the_step_of_one(two: Path) -> None:
    assert_all_make_the_same_step(two, 2, FEW)


@pytest.mark.slow
def test_four_processes_make_the_step_of_one(four: Path) -> None:
    assert_all_make_the_same_step(four, 4, RANKS)


def test_four_micro_batches_make_the_step_of_one() -> None:
    expected = whole("vit")
    for recomputes in (False, True):
        assert_same_step(measure(ALONE, VIT, accumulate=4, recomputes=recomputes), expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_micro_batches_in_half_precision_make_the_same_step_as_near_as_it_is(precision: Precision) -> None:
    whole, parts = (measure(ALONE, VIT, precision=precision, accumulate=count) for count in (1, 4))
    single = measure(ALONE, VIT)
    assert parts["loss"].item() == pytest.approx(whole["loss"].item(), abs=1e-4)
    for name, exact in single["gradients"].items():
        errors = [(each["gradients"][name] - exact).norm() for each in (whole, parts)]
        assert errors[1] < 2 * errors[0] + 1e-6, name


def test_a_run_in_parts_is_the_run_of_whole_batches(tiny_dataset: Path, tmp_path: Path) -> None:
    config = TrainConfig(model=VIT, batch_size=12, epochs=1, lr=1e-4, log_every=1, workers=0)
    losses = []
    for count in (1, 3):
        run_it(tiny_dataset, tmp_path / str(count), config.model_copy(update={"accumulate": count}))
        losses.append([line["loss"] for line in lines(tmp_path / str(count)) if "loss" in line])
    assert len(losses[0]) == 5
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_a_resnets_micro_batches_have_their_own_statistics_and_are_counted_once() -> None:
    model, batch = prepared(RESNET, torch.float64), make_batch(64)
    parts = zip(normalize(batch.images_BCHW).chunk(4), batch.tokens_BL.chunk(4), strict=True)
    images, texts, scales = zip(*(model.features(*part) for part in parts), strict=True)
    loss = clip_loss(torch.cat(images), torch.cat(texts), scales[0], ALONE)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: each.grad for name, each in model.named_parameters()}
    norm = nn.utils.get_total_norm([each for each in gradients.values() if each is not None])
    expected = {"loss": loss, "norm": norm, "gradients": gradients, "state_dict": model.state_dict()}
    found = measure(ALONE, RESNET, accumulate=4, dtype=torch.float64)
    assert_same_step(found, expected)
    assert found["state_dict"]["visual.bn1.num_batches_tracked"] == 4


def test_a_batch_that_cannot_be_shared_out_evenly_is_refused() -> None:
    check_shares(TrainConfig(batch_size=24, accumulate=3), 2)
    with pytest.raises(ConfigError, match="batch size 24 is not a multiple of the 5 processes"):
        check_shares(TrainConfig(batch_size=24), 5)
    with pytest.raises(ConfigError, match="batch size 24 is not a multiple of --accumulate 5"):
        check_shares(TrainConfig(batch_size=24, accumulate=5), 1)
    with pytest.raises(ConfigError, match=r"share of the batch, 12 samples, .* of --accumulate 8"):
        check_shares(TrainConfig(batch_size=24, accumulate=8), 2)
