"""A run that begins with a model file: of any format, of the right model, the same one on resume."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError, TrainError
from clipkit.model.checkpoint import Checkpoint, load_model, save_checkpoint
from clipkit.model.clip import Clip, build
from clipkit.model.config import named_config
from clipkit.model.convert import convert
from clipkit.model.formats.names import FORMAT_NAMES
from clipkit.model.released import RELEASED
from clipkit.train.config import TrainConfig
from clipkit.train.evaluating import Together
from clipkit.train.pretrained import find_start
from clipkit.train.run_directory import RunDirectory
from tests.train.test_run import lines, run_it

MODEL = "ViT-Micro/16@32px"
CONFIG = TrainConfig(model=MODEL, batch_size=32, epochs=1, lr=1e-3, log_every=1, workers=0)


def saved(model: Clip, path: Path) -> Path:
    config = model.config.model_dump(mode="json")
    save_checkpoint(path, Checkpoint(7, "other", model.state_dict(), config))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with weights that no seed of the tests gives."""
    return saved(build(named_config(MODEL), seed=99), tmp_path_factory.mktemp("source") / "model.pt")


class Watch:
    """An evaluator that keeps the weights that it saw first."""

    seen: dict[str, torch.Tensor] | None = None

    def __call__(self, model: Clip, together: Together) -> Iterator[tuple[str, float]]:
        if self.seen is None:
            self.seen = {name: each.clone() for name, each in model.state_dict().items()}
        yield "nothing", 0.0


def with_start(path: Path | str, **settings: Any) -> TrainConfig:
    return CONFIG.model_copy(update={"pretrained": str(path), **settings})


@pytest.mark.parametrize("to", FORMAT_NAMES)
def test_a_run_begins_with_the_weights_of_a_file_of_any_format(
    tiny_dataset: Path, tmp_path: Path, source: Path, to: str
) -> None:
    target = tmp_path / {"safetensors": "m.safetensors", "hf": "m"}.get(to, "m.pt")
    convert(source, target, to)
    watch, expected = Watch(), load_model(source).state_dict()
    run_it(tiny_dataset, tmp_path / "run", with_start(target), [watch])
    assert watch.seen is not None
    assert all(torch.equal(each, expected[name]) for name, each in watch.seen.items())
    stored = torch.load(tmp_path / "run" / "checkpoints" / "epoch_1.pt", weights_only=True)
    assert len(stored["train_config"]["pretrained_sha256"]) == 64
    assert stored["model_config"]["name"] == MODEL
    assert stored["step"] == 2


def test_a_file_of_another_model_is_refused_with_the_differences(
    tiny_dataset: Path, tmp_path: Path, source: Path
) -> None:
    with pytest.raises(CheckpointError) as caught:
        run_it(tiny_dataset, tmp_path / "run", with_start(source, model="ViT-Mini/8@64px"))
    assert "embed_dim is 64, not 256" in str(caught.value)
    assert str(caught.value).endswith("; give the --model that it is, or another file")
    assert not (tmp_path / "run").exists()


def test_the_name_says_the_activation_where_the_file_does_not(
    tiny_dataset: Path, tmp_path: Path, source: Path
) -> None:
    torch.save(load_model(source).state_dict(), tmp_path / "plain.pt")
    gelu = f"{MODEL}-gelu"
    run_it(tiny_dataset, tmp_path / "run", with_start(tmp_path / "plain.pt", model=gelu))
    assert load_model(tmp_path / "run" / "checkpoints" / "epoch_1.pt").config.activation == "gelu"
    with pytest.raises(
        CheckpointError, match=r"activation is 'quick_gelu', not 'gelu'; give the --model that"
    ):
        run_it(tiny_dataset, tmp_path / "other", with_start(source, model=gelu))


def test_a_file_that_is_not_there_is_one_line_and_leaves_nothing(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no file .*gone.pt: give the path of a checkpoint"):
        run_it(tiny_dataset, tmp_path / "run", with_start(tmp_path / "gone.pt"))
    assert not (tmp_path / "run").exists()


def test_a_run_that_has_begun_goes_on_from_its_own_checkpoint(
    tiny_dataset: Path, tmp_path: Path, source: Path
) -> None:
    config = with_start(source, save_every=32)
    whole, run = (RunDirectory(tmp_path / name) for name in ("whole", "run"))
    for each in (whole, run):
        run_it(tiny_dataset, each.path, config)
    (run.checkpoints / "epoch_1.pt").unlink()
    (run.checkpoints / "latest").unlink()
    moved = tmp_path / "moved.pt"
    moved.write_bytes(source.read_bytes())
    other = saved(build(named_config(MODEL), seed=98), tmp_path / "other.pt")
    with pytest.raises(TrainError, match="cannot be continued, since pretrained_sha256 was"):
        run_it(tiny_dataset, run.path, with_start(other, save_every=32))
    with pytest.raises(CheckpointError, match=r"gone.pt: .*; this run has begun, and goes on"):
        run_it(tiny_dataset, run.path, with_start(tmp_path / "gone.pt", save_every=32))
    for again in (with_start(moved, save_every=32), config.model_copy(update={"pretrained": None})):
        assert run_it(tiny_dataset, run.path, again).steps == 2
        assert lines(run.path) == lines(whole.path)
        kept = run.read_config()
        assert kept is not None and kept["pretrained"] == str(moved)


def test_a_run_without_a_start_does_not_become_one_with(
    tiny_dataset: Path, tmp_path: Path, source: Path
) -> None:
    run_it(tiny_dataset, tmp_path / "run", CONFIG)
    with pytest.raises(TrainError, match="cannot be continued, since pretrained_sha256 was None, now '"):
        run_it(tiny_dataset, tmp_path / "run", with_start(source))


def test_a_released_models_identity_is_known_without_its_file() -> None:
    start = find_start(with_start("RN50"), None)
    assert start.sha256 is not None and f"/{start.sha256}/" in RELEASED["RN50"]


@pytest.mark.parametrize("which", ["lock_image", "lock_text"])
def test_random_towers_are_not_locked(tiny_dataset: Path, tmp_path: Path, which: str) -> None:
    with pytest.raises(ConfigError, match=f"--{which.replace('_', '-')} would leave random weights as they"):
        run_it(tiny_dataset, tmp_path / "run", CONFIG.model_copy(update={which: True}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("which", ["lock_image", "lock_text"])
def test_a_run_with_a_locked_tower_keeps_it_and_its_optimizer_knows_nothing_of_it(
    tiny_dataset: Path, tmp_path: Path, source: Path, which: str
) -> None:
    config = with_start(source, save_every=32, **{which: True})
    run = RunDirectory(tmp_path / "run")
    run_it(tiny_dataset, run.path, config)
    first = lines(run.path)
    stored = torch.load(run.checkpoints / "epoch_1.pt", weights_only=True)
    expected = load_model(source).state_dict()
    same = {name for name, each in stored["state_dict"].items() if torch.equal(each, expected[name])}
    locked = {name for name in expected if name.startswith("visual.") == (which == "lock_image")}
    assert same == locked - {"logit_scale"}
    assert len(stored["optimizer"]["state"]) == len(expected) - len(same)
    (run.checkpoints / "epoch_1.pt").unlink()
    (run.checkpoints / "latest").unlink()
    run_it(tiny_dataset, run.path, config)
    assert lines(run.path) == first
