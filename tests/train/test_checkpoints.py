import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.errors import CheckpointError, TrainError
from clipkit.model.checkpoint import load_model
from clipkit.model.clip import Clip
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.evaluating import Evaluator, Together
from clipkit.train.result import TrainResult
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory

# 64 samples: 3 epochs are 16 batches; epochs close at steps 6, 11 and 16.
CONFIG = TrainConfig(
    model="ViT-Micro/16@32px", batch_size=12, epochs=3, lr=1e-3, save_every=30, log_every=4, workers=0
)


def run_it(
    dataset: Path, path: Path, config: TrainConfig = CONFIG, evaluators: Sequence[Evaluator] = ()
) -> TrainResult:
    return train(config, ShardSet(dataset), RunDirectory(path), evaluators)


def steps(path: Path) -> list[int]:
    return [line["step"] for line in RunDirectory(path).metrics.read()]


def spoiler() -> Evaluator:
    """Makes the run diverge after its first epoch."""
    evaluations = itertools.count()

    def spoil(model: Clip, together: Together) -> Iterator[tuple[str, float]]:
        if next(evaluations) == 1:
            model.logit_scale.fill_(float("nan"))
        yield "nothing", float("nan")

    return spoil


@pytest.fixture(scope="module")
def whole(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    run_it(tiny_dataset, path)
    return path


def test_checkpoints_open_safely_and_hold_the_run(whole: Path) -> None:
    names = {path.name for path in (whole / "checkpoints").iterdir()}
    assert names == {"epoch_1.pt", "epoch_2.pt", "epoch_3.pt", "step_13.pt", "step_15.pt", "latest"}
    last = torch.load(whole / "checkpoints" / "epoch_3.pt", weights_only=True)
    assert (last["epoch"], last["step"], last["position"], last["name"]) == (3, 16, 192, "whole")
    assert last["train_config"] == json.loads((whole / "config.json").read_text())
    assert last["train_config"]["beta2"] == 0.98
    assert last["train_config"]["data"]["samples"] == 64
    assert not any(name.startswith("module.") for name in last["state_dict"])
    assert load_model(RunDirectory(whole).latest() or whole).config.name == "ViT-Micro/16@32px"


@pytest.mark.slow
def test_checkpoints_by_the_clock_change_no_number(tiny_dataset: Path, whole: Path, tmp_path: Path) -> None:
    often = CONFIG.model_copy(update={"save_every": None, "save_minutes": 1e-9, "keep": 100})
    run_it(tiny_dataset, tmp_path / "run", often)
    names = {path.stem for path in (tmp_path / "run" / "checkpoints").glob("*.pt")}
    assert names == {f"step_{step}" for step in range(1, 16)} - {"step_6", "step_11"} | {
        "epoch_1",
        "epoch_2",
        "epoch_3",
    }
    mine, theirs = (
        torch.load(path / "checkpoints" / "epoch_3.pt", weights_only=True)["state_dict"]
        for path in (tmp_path / "run", whole)
    )
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 16}, "batch_size was 12, now 16"),
        ({"model": "RN50"}, "model was 'ViT-Micro/16@32px', now 'RN50'"),
        ({"seed": 1, "epochs": 4}, "epochs was 3, now 4; seed was 0, now 1"),
        ({"lr": 1e-4}, "lr was 0.001, now 0.0001"),
    ],
)
def test_another_run_is_refused_with_the_differences(
    tiny_dataset: Path, whole: Path, change: dict[str, object], said: str
) -> None:
    before = (whole / "config.json").read_bytes()
    with pytest.raises(TrainError, match=f"cannot be continued, since .*{said}"):
        run_it(tiny_dataset, whole, CONFIG.model_copy(update=change))
    assert (whole / "config.json").read_bytes() == before


def test_a_run_of_a_constant_rate_can_be_lengthened_to_the_same_weights(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    short = CONFIG.model_copy(update={"schedule": "constant", "warmup": 2.0, "epochs": 1})
    long = short.model_copy(update={"epochs": None, "samples_seen": 2 * 64})
    run_it(tiny_dataset, tmp_path / "run", short)
    run_it(tiny_dataset, tmp_path / "run", long)
    run_it(tiny_dataset, tmp_path / "unbroken", long)
    mine, theirs = (
        torch.load(tmp_path / run / "checkpoints" / "epoch_2.pt", weights_only=True)
        for run in ("run", "unbroken")
    )
    assert mine["step"] == theirs["step"] == 2 * 64 // 12
    torch.testing.assert_close(mine["state_dict"], theirs["state_dict"], rtol=0, atol=0)
    with pytest.raises(TrainError, match=r"within the run's 5 steps, found one after 10: give more --epochs"):
        run_it(tiny_dataset, tmp_path / "run", short)


def test_another_warm_up_or_a_cosine_is_no_longer_run(
    tiny_dataset: Path, whole: Path, tmp_path: Path
) -> None:
    constant = CONFIG.model_copy(update={"schedule": "constant", "warmup": 0.2, "epochs": 1})
    run_it(tiny_dataset, tmp_path / "run", constant)
    with pytest.raises(TrainError, match=r"epochs was 1, now 3: .* with --warmup 1, as it has been, it can"):
        run_it(tiny_dataset, tmp_path / "run", constant.model_copy(update={"epochs": 3}))
    with pytest.raises(TrainError, match=r"epochs was 3, now 4: .* its checkpoint as --pretrained"):
        run_it(tiny_dataset, whole, CONFIG.model_copy(update={"epochs": 4}))


def test_other_data_is_refused_and_the_same_data_elsewhere_is_not(
    whole: Path, small_dataset: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainError, match=r"data.directory was .*, now .*data.samples was 64, now 2160"):
        run_it(small_dataset, whole)
    (tmp_path / "moved").symlink_to(tiny_dataset)
    more_loaders = CONFIG.model_copy(update={"workers": 2, "save_every": 7})
    assert run_it(tmp_path / "moved", whole, more_loaders).finished_before
    assert run_it(tiny_dataset, whole).finished_before


def test_a_foreign_checkpoint_is_refused_even_without_the_config(
    whole: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "epoch_3.pt").symlink_to(whole / "checkpoints" / "epoch_3.pt")
    (tmp_path / "run" / "checkpoints" / "latest").symlink_to("epoch_3.pt")
    with pytest.raises(TrainError, match=r"epoch_3.pt: cannot be continued, since seed was 0, now 5"):
        run_it(tiny_dataset, tmp_path / "run", CONFIG.model_copy(update={"seed": 5}))


def copied(whole: Path, to: Path, spoil: Callable[[dict[str, Any]], object]) -> Path:
    """A run of nothing but the first checkpoint, changed."""
    content = torch.load(whole / "checkpoints" / "epoch_1.pt", weights_only=True)
    spoil(content)
    folder = to / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(content, folder / "epoch_1.pt")
    (folder / "latest").symlink_to("epoch_1.pt")
    return to


def test_another_network_of_the_same_name_is_refused(whole: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    run = copied(whole, tmp_path / "run", lambda content: content["model_config"]["text"].update(heads=2))
    with pytest.raises(TrainError, match=r"cannot be continued, since network\.text\.heads was 2, now 1"):
        run_it(tiny_dataset, run)


def test_a_setting_that_an_older_version_did_not_know_has_its_default(
    whole: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    def forget(content: dict[str, Any]) -> None:
        del content["train_config"]["flip"]

    run = copied(whole, tmp_path / "run", forget)
    with pytest.raises(TrainError, match="cannot be continued, since flip was False, now True"):
        run_it(tiny_dataset, run, CONFIG.model_copy(update={"flip": True}))
    run_it(tiny_dataset, run)
    assert "goes on after step 6" in (run / "out.log").read_text()


def no_optimizer(content: dict[str, Any]) -> None:
    del content["optimizer"]


def settings_that_do_not_compare(content: dict[str, Any]) -> None:
    content["train_config"]["batch_size"] = torch.arange(3)


@pytest.mark.parametrize("spoil", [no_optimizer, settings_that_do_not_compare])
def test_what_this_run_did_not_write_is_one_line(
    whole: Path, tiny_dataset: Path, tmp_path: Path, spoil: Callable[[dict[str, Any]], None]
) -> None:
    run = copied(whole, tmp_path / "run", spoil)
    with pytest.raises(CheckpointError, match="expected a checkpoint that this run wrote"):
        run_it(tiny_dataset, run)


def test_a_run_that_diverges_names_the_last_good_checkpoint(tiny_dataset: Path, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(TrainError, match=r"loss is nan at step 8; the last good checkpoint is .*epoch_1.pt"):
        run_it(tiny_dataset, run.path, CONFIG, [spoiler()])
    assert steps(run.path) == [0, 4, 6]
    assert run.metrics.read()[0]["nothing"] is None
    newest = run.latest()
    assert newest is not None
    good: dict[str, Any] = torch.load(newest, weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in good.values())


def test_weights_that_are_not_finite_are_never_written(tiny_dataset: Path, tmp_path: Path) -> None:
    seldom = CONFIG.model_copy(update={"log_every": 100})
    with pytest.raises(TrainError, match=r"weights are not finite after step 8; .* is .*epoch_1.pt"):
        run_it(tiny_dataset, tmp_path / "run", seldom, [spoiler()])
    assert not (tmp_path / "run" / "checkpoints" / "step_8.pt").exists()
