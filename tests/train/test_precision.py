"""fp16 with a scale for its gradients, on the CPU: what is skipped, counted, kept and given up."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.errors import CheckpointError, TrainError
from clipkit.model.clip import Clip, build
from clipkit.train.config import TrainConfig
from clipkit.train.evaluating import Together
from clipkit.train.precision import MOST_SKIPPED, tf32
from clipkit.train.run_directory import RunDirectory
from clipkit.train.state import TrainState
from tests.train.test_run import lines, run_it
from tests.train.test_step import VIT, make_batch, make_step

CONFIG = TrainConfig(
    model="ViT-Micro/16@32px", batch_size=12, epochs=3, lr=1e-3, log_every=1, workers=0, precision="fp16"
)


def loud(model: Clip, together: Together) -> Iterator[tuple[str, float]]:
    """Before the first step, the factor of the features is made so large that gradients overflow."""
    if model.logit_scale < 3:
        model.logit_scale.fill_(math.log(100))
    yield "scale", model.logit_scale.item()


@pytest.fixture(scope="module")
def whole(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    run_it(tiny_dataset, path, CONFIG, [loud])
    return path


def test_fp16_makes_the_steps_of_fp32_but_for_those_that_it_skips() -> None:
    half, single = (make_step(build(VIT, seed=1), 30.0, precision) for precision in ("fp16", "fp32"))
    state, skipped = TrainState(), []
    for number in range(8):
        before = {name: each.clone() for name, each in half.model.state_dict().items()}
        figures = half(make_batch(number), number, with_norm=True)
        assert figures.skipped is not None and figures.norm is not None
        state.add_step(figures.loss, figures.skipped)
        skipped.append(bool(figures.skipped))
        if skipped[-1]:
            assert all(torch.equal(each, before[name]) for name, each in half.model.state_dict().items())
            continue
        expected = single(make_batch(number), number, with_norm=True)
        assert expected.norm is not None
        assert figures.loss.item() == pytest.approx(expected.loss.item(), rel=0.02)
        assert figures.norm.item() == pytest.approx(expected.norm.item(), rel=0.05)  # the scale is out of it
    assert 0 < sum(skipped) < 5
    assert half.scaler.get_scale() == 2.0 ** (16 - sum(skipped))
    assert (state.skipped, state.step, state.loss_steps) == (sum(skipped), 8, 8)
    assert {each.dtype for each in half.model.parameters()} == {torch.float32}


def test_skipped_steps_are_counted_in_all_and_in_a_row() -> None:
    state, yes, no = TrainState(), torch.tensor(True), torch.tensor(False)
    seen = []
    for loss, skipped in ((1.0, no), (math.nan, yes), (2.0, yes), (3.0, no), (math.inf, yes)):
        state.add_step(torch.tensor(loss), skipped)
        seen.append((int(state.skipped), int(state.skipped_in_row)))
    assert seen == [(0, 0), (1, 1), (2, 2), (2, 0), (3, 1)]
    assert (state.loss_sum, state.loss_steps) == (6.0, 3)


def test_a_loss_that_is_not_finite_is_kept_where_no_step_is_skipped() -> None:
    state = TrainState()
    state.add_step(torch.tensor(math.nan), None)
    assert math.isnan(state.loss_sum) and state.loss_steps == 1


def test_a_run_in_fp16_logs_what_it_skips_and_keeps_its_scale(whole: Path) -> None:
    found = lines(whole)
    skipped = [line["skipped_steps"] for line in found if "loss" in line]
    scales = [line["loss_scale"] for line in found if "loss" in line]
    assert skipped[-1] >= 1 and skipped == sorted(skipped)
    assert scales == [2.0 ** (16 - count) for count in skipped]
    assert all(math.isfinite(line["loss"]) for line in found if "loss" in line)
    stored = torch.load(whole / "checkpoints" / "epoch_1.pt", weights_only=True)
    assert stored["step"] == 6
    assert stored["scaler"]["scale"] == scales[5]
    assert stored["progress"]["skipped"][0] == skipped[5]


def test_a_run_in_fp16_goes_on_with_its_scale(tiny_dataset: Path, whole: Path, tmp_path: Path) -> None:
    path = continued(whole, tmp_path / "run")
    run_it(tiny_dataset, path, CONFIG, [loud])
    assert lines(path) == lines(whole)
    mine, theirs = (
        torch.load(each / "checkpoints" / "epoch_3.pt", weights_only=True) for each in (path, whole)
    )
    assert mine["scaler"] == theirs["scaler"]
    assert mine["progress"]["skipped"] == theirs["progress"]["skipped"]
    torch.testing.assert_close(mine["state_dict"], theirs["state_dict"], rtol=0, atol=0)


def continued(whole: Path, path: Path) -> Path:
    """A copy of the run as it was after its first epoch."""
    (path / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "metrics.jsonl", "results.jsonl"):
        (path / name).write_bytes((whole / name).read_bytes())
    first = path / "checkpoints" / "epoch_1.pt"
    first.write_bytes((whole / "checkpoints" / "epoch_1.pt").read_bytes())
    return path


@pytest.mark.parametrize("scaler", [None, {}, {"scale": "large"}, {"scale": math.nan}])
def test_a_scaler_that_this_run_did_not_write_is_one_line(
    tiny_dataset: Path, whole: Path, tmp_path: Path, scaler: dict[str, Any] | None
) -> None:
    path = continued(whole, tmp_path / "run")
    content = torch.load(path / "checkpoints" / "epoch_1.pt", weights_only=True)
    content["scaler"] = scaler and content["scaler"] | scaler
    torch.save(content, path / "checkpoints" / "epoch_1.pt")
    with pytest.raises(CheckpointError, match=r"epoch_1.pt: expected a checkpoint that this run wrote"):
        run_it(tiny_dataset, path, CONFIG)


def test_many_skipped_steps_in_a_row_end_the_run(tiny_dataset: Path, tmp_path: Path) -> None:
    run, evaluations = RunDirectory(tmp_path / "run"), iter((0.0, math.nan))

    def spoil(model: Clip, together: Together) -> Iterator[tuple[str, float]]:
        model.logit_scale.add_(next(evaluations))  # the second is that after the first epoch, of 32 steps
        yield "nothing", 0.0

    config = CONFIG.model_copy(update={"batch_size": 2})
    expected = (
        rf"the gradients of the last {MOST_SKIPPED} steps, to step {32 + MOST_SKIPPED}, are not finite; "
    )
    with pytest.raises(TrainError, match=expected + r"the last good checkpoint is .*epoch_1.pt"):
        run_it(tiny_dataset, run.path, config, [spoil])
    assert run.metrics.read()[-1]["loss"] is None


def test_tf32_is_allowed_or_not_on_cuda_alone_and_only_within() -> None:
    def found() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before, cuda = found(), torch.device("cuda")
    with tf32(True, cuda):
        assert found() == ("high", True)
    with tf32(False, cuda):
        assert found() == ("highest", False)
    assert found() == before
    with tf32(True, torch.device("cpu")):
        assert found() == before
