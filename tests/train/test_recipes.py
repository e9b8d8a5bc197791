import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from clipkit.model.config import named_config
from clipkit.shards.aspects import count_longer, warning_of_longer
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import ResolvedConfig, TrainConfig
from clipkit.train.length import run_length, warmup_steps
from clipkit.train.recipes import RECIPES
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory
from tests.conftest import WriteDataset, picture
from tests.test_cli import clipkit


def resolved(**given: Any) -> ResolvedConfig:
    config = TrainConfig(**given)
    return config.resolved(named_config(config.model), "cuda")


def test_the_published_settings() -> None:
    """As OpenCLIP's README and its docs/PRETRAINED.md have them."""
    found = {name: resolved(recipe=name) for name in RECIPES}
    assert {name: (each.model, each.lr, each.epochs) for name, each in found.items()} == {
        "cc3m-rn50": ("RN50", 1e-3, 30),
        "cc3m-rn50x4": ("RN50x4", 1e-3, 30),
        "cc12m-rn50": ("RN50", 1e-3, 30),
        "yfcc15m-rn50": ("RN50", 5e-4, 32),
        "yfcc15m-rn101": ("RN101", 5e-4, 32),
    }
    for each in found.values():
        assert (each.batch_size, each.weight_decay, each.schedule) == (1024, 0.1, "cosine")
        assert (each.beta1, each.beta2, each.eps, each.crop_scale) == (0.9, 0.999, 1e-8, (0.9, 1.0))
        assert warmup_steps(each, 80_000) == 10_000


def test_what_is_given_wins_over_the_recipe() -> None:
    own = resolved(
        recipe="cc3m-rn50", model="ViT-B/32", lr=5e-4, warmup=2000, weight_decay=0.2, batch_size=128
    )
    assert (own.model, own.lr, own.warmup, own.weight_decay, own.batch_size) == (
        "ViT-B/32",
        5e-4,
        2000,
        0.2,
        128,
    )
    assert (own.beta2, own.epochs) == (0.999, 30)
    assert resolved(recipe="cc3m-rn50", warmup=None).warmup is None
    length = run_length(resolved(recipe="cc3m-rn50", samples_seen=2048), 3_000_000)
    assert (length.samples, length.steps) == (2048, 2)
    assert resolved(recipe="cc3m-rn50", overfit=64).batch_size == 64
    with pytest.raises(ValidationError, match="no recipe is called 'cc4m'; there are cc3m-rn50, "):
        TrainConfig(recipe="cc4m")


@pytest.mark.slow
def test_the_command_says_and_stores_what_the_recipe_comes_to(
    write_dataset: WriteDataset, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "data", 64)
    words = [
        "--recipe",
        "cc3m-rn50",
        "--model",
        "ViT-Micro/16@32px",
        "--batch-size",
        "32",
        "--weight-decay",
        "0.2",
    ]
    short = ["--warmup", "0", "--samples-seen", "64", "--workers", "0", "--name", "run"]
    finished = clipkit("train", "--shards", "data", *words, *short, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    config = json.loads((tmp_path / "runs" / "run" / "config.json").read_text())
    assert (config["recipe"], config["model"], config["batch_size"]) == ("cc3m-rn50", "ViT-Micro/16@32px", 32)
    assert (config["lr"], config["weight_decay"], config["warmup"]) == (1e-3, 0.2, 0)
    (said,) = [line for line in finished.stderr.splitlines() if line.startswith("recipe ")]
    assert "batch_size 1,024, weight_decay 0.1, warmup 10,000" in said
    assert (
        "here model ViT-Micro/16@32px instead of RN50, batch_size 32 instead of 1,024, weight_decay 0.2"
        in said
    )
    assert "clipkit has not measured it" in said
    assert "warning" not in finished.stderr
    # the same settings without the recipe's name are the same run
    spelled = TrainConfig(**{name: config[name] for name in TrainConfig.model_fields if name != "recipe"})
    run = RunDirectory(tmp_path / "runs" / "run")
    assert train(spelled, ShardSet(tmp_path / "data"), run).finished_before


def test_long_pictures_are_counted_and_both_ways_leave_them_out(tmp_path: Path) -> None:
    sizes = [(60, 40), (121, 40), (120, 40), (40, 300), (50, 50)]
    for number, (width, height) in enumerate(sizes):
        (tmp_path / f"{number}.jpg").write_bytes(picture(number, width, height))
    lines = [f"{number}.jpg\ta picture" for number in range(len(sizes))]
    (tmp_path / "list.csv").write_text("\n".join(["filepath\ttitle", *lines]) + "\n")
    for words in (["--out", "all"], ["--out", "good", "--max-aspect", "3"]):
        assert clipkit("ingest", "files", "list.csv", *words, cwd=tmp_path).returncode == 0
    data = str(tmp_path / "all")
    assert count_longer(data, 3) == (5, 2)
    assert count_longer(str(tmp_path / "good"), 3) == (3, 0)
    assert count_longer(str(tmp_path / "*.tar"), 3) is None
    assert warning_of_longer(str(tmp_path / "good"), 3, "so") is None
    warning = warning_of_longer(data, 3, "so")
    assert (
        warning is not None and "of 5 pictures looked at, 2 are over 3 times as long as wide; so" in warning
    )
    filtered = shlex.split(warning.split("`")[3].replace("NEW", str(tmp_path / "left")))
    done = clipkit(*filtered[1:])
    assert done.returncode == 0, done.stderr
    assert count_longer(str(tmp_path / "left"), 3) == (3, 0)
