import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clipkit.errors import ConfigError
from clipkit.model.config import named_config
from clipkit.train.config import TrainConfig
from clipkit.train.length import RunLength, evaluation_due, run_length, warmup_steps


def test_defaults_are_the_papers() -> None:
    resnet = TrainConfig().resolved(named_config("RN50"), "cpu")
    assert (resnet.lr, resnet.beta1, resnet.beta2, resnet.eps) == (5e-4, 0.9, 0.999, 1e-8)
    assert (resnet.epochs, resnet.weight_decay, resnet.precision) == (32, 0.2, "fp32")
    vit = TrainConfig().resolved(named_config("ViT-B/32"), "cuda")
    assert (vit.lr, vit.beta1, vit.beta2, vit.eps) == (5e-4, 0.9, 0.98, 1e-6)
    assert (vit.precision, vit.tf32, resnet.tf32) == ("bf16", True, False)
    assert TrainConfig(tf32=False).resolved(named_config("RN50"), "cuda").tf32 is False


def test_what_is_given_stays() -> None:
    given = TrainConfig(model="ViT-B-32", lr=1e-3, beta2=0.95, samples_seen=1000, precision="fp32")
    resolved = given.resolved(named_config(given.model), "cuda")
    assert (resolved.lr, resolved.beta2, resolved.eps) == (1e-3, 0.95, 1e-6)
    assert (resolved.samples_seen, resolved.epochs, resolved.precision) == (1000, None, "fp32")
    assert resolved.model == "ViT-B/32"


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 1, "samples_seen": 10},
        {"evaluate_epochs": 1, "evaluate_samples": 10},
        {"evaluate_epochs": 0},
        {"beta2": 1.0},
        {"lr": float("inf")},
        {"lr": 0},
        {"warmup": 1.5},
        {"crop_scale": (0.9, 0.5)},
        {"crop_scale": (0.5, 1.1)},
        {"precision": "fp8"},
        {"accumulate": 0},
        {"model": "ViT-B/32", "sync_batch_norm": True},
        {"seed": -1},
        {"workers": 100_000},
        {"streams": 0},
        {"streams": 257},
        {"learning_rate": 1e-3},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainConfig.model_validate(settings)


def test_an_unknown_model_is_refused_and_the_names_are_listed() -> None:
    with pytest.raises(ValidationError, match=r"'nonsense'; there are RN50, .*ViT-L/14@336px") as caught:
        TrainConfig(model="nonsense")
    assert caught.value.errors()[0]["loc"] == ("model",)
    assert TrainConfig(model="vit-b-32").model == "vit-b-32"


def test_settings_are_checked_without_torch() -> None:
    program = "import sys, clipkit.train.config; print({'torch'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_json_gives_the_same_config() -> None:
    config = TrainConfig(warmup=2000, color_jitter=(0.4, 0.4, 0.4, 0.1))
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_a_batch_larger_than_the_data_or_the_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch size 65 is more than the data set's 64 samples"):
        run_length(TrainConfig(batch_size=65), 64)
    with pytest.raises(ConfigError, match="a run of 31 samples has no batch of 32"):
        run_length(TrainConfig(batch_size=32, samples_seen=31), 64)


@given(st.integers(1, 200), st.integers(1, 5), st.data())
def test_every_epoch_closes_once(samples: int, epochs: int, data: st.DataObject) -> None:
    batch = data.draw(st.integers(1, samples))
    length = run_length(TrainConfig(batch_size=batch, epochs=epochs), samples)
    assert length.steps * batch + length.not_trained == epochs * samples
    assert 0 <= length.not_trained < batch
    assert length.epochs_done(length.steps) == epochs
    assert length.closes_epoch(length.steps)
    closing = [step for step in range(length.steps + 1) if length.closes_epoch(step)]
    numbers = [length.epochs_done(step) for step in closing]
    assert numbers == sorted(set(numbers))
    # The batch that closes an epoch holds its last sample, unless nothing follows.
    for step, epoch in zip(closing[:-1], numbers[:-1], strict=True):
        assert (step - 1) * batch < epoch * samples <= step * batch


def test_a_run_that_ends_within_an_epoch_closes_none_there() -> None:
    length = RunLength(samples=100, batch_size=10, epoch_samples=64)
    assert [step for step in range(11) if length.closes_epoch(step)] == [7]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, [0, 4, 7, 10]),
        ({"evaluate_epochs": 2}, [0, 7, 10]),
        ({"evaluate_epochs": 5}, [0, 10]),
        ({"evaluate_samples": 25}, [0, 3, 5, 8, 10]),
        ({"evaluate_samples": 5}, list(range(11))),
    ],
)
def test_evaluations_are_due_first_last_and_in_between(settings: dict[str, int], steps: list[int]) -> None:
    config = TrainConfig.model_validate({"batch_size": 10, "epochs": 3} | settings)
    length = run_length(config, 34)
    assert [step for step in range(length.steps + 1) if evaluation_due(config, length, step)] == steps


def test_warmup_is_steps_or_a_fraction() -> None:
    assert warmup_steps(TrainConfig(), 100_000) == 2000
    assert warmup_steps(TrainConfig(), 500) == 50
    assert warmup_steps(TrainConfig(warmup=0.25), 500) == 125
    assert warmup_steps(TrainConfig(warmup=300), 500) == 300
    assert warmup_steps(TrainConfig(warmup=0), 500) == 0
    with pytest.raises(ConfigError, match="warm-up of 500 steps in a run of 500 steps"):
        warmup_steps(TrainConfig(warmup=500), 500)


@pytest.mark.parametrize(
    ("written", "share"), [("0.1%", 0.001), ("0.7%", 0.007), (" 5 % ", 0.05), ("0.25", 0.25), (0.5, 0.5)]
)
def test_a_share_may_be_given_in_percent(written: Any, share: float) -> None:
    assert TrainConfig(max_bad=written).max_bad == pytest.approx(share)


@pytest.mark.parametrize("written", ["200%", "%", "x%", "x", "-1%", "nan%"])
def test_what_is_no_share_is_refused(written: Any) -> None:
    with pytest.raises(ValidationError, match="max_bad"):
        TrainConfig(max_bad=written)
