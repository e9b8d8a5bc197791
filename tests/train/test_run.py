import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clipkit.errors import ConfigError
from clipkit.model.clip import Clip
from clipkit.progress import Progress
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.evaluating import Evaluator, Together
from clipkit.train.interrupt import TrainInterrupted
from clipkit.train.result import TrainResult
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory
from tests.processes import living, wait_until_gone

# 64 samples: 3 epochs are 16 batches and none left over; epochs close at steps 6, 11 and 16.
CONFIG = TrainConfig(
    model="ViT-Micro/16@32px",
    batch_size=12,
    epochs=3,
    lr=1e-3,
    flip=True,
    save_every=30,
    log_every=1,
    workers=0,
)
COARSE = CONFIG.model_copy(update={"log_every": 4})
CHILD: dict[str, Any] = {"start_new_session": True, "stdout": subprocess.PIPE, "text": True}
CLOCK = {"samples_per_second", "data_wait", "peak_memory_mb"}


class Watched(Progress):
    """A display that does something when so many samples are shown as trained."""

    def __init__(self, samples: int, at: int = -1, act: Callable[[], object] = bool):
        super().__init__("train", samples, "samples")
        self._at, self._act = at, act

    def update(self, done: int, note: str = "", figures: Mapping[str, Any] | None = None) -> None:
        if done == self._at:
            self._act()


def scale(model: Clip, together: Together) -> Iterator[tuple[str, float]]:
    assert not model.training
    yield "scale", model.logit_scale.item()


def run_it(
    dataset: Path,
    path: Path,
    config: TrainConfig = CONFIG,
    evaluators: Sequence[Evaluator] = (scale,),
    at: int = -1,
    act: Callable[[], object] = bool,
) -> TrainResult:
    return train(
        config, ShardSet(dataset), RunDirectory(path), evaluators, lambda samples: Watched(samples, at, act)
    )


def child_command(dataset: Path, path: Path, config: TrainConfig, place: str, count: int) -> list[str]:
    script = Path(__file__).with_name("killed_run.py")
    return [sys.executable, *map(str, (script, dataset, path, config.model_dump_json(), place, count))]


def lines(path: Path) -> list[dict[str, Any]]:
    """What stands in metrics.jsonl but for the clock."""
    texts = (path / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(text).items() if k not in CLOCK} for text in texts]


def losses(path: Path) -> list[float]:
    return [line["loss"] for line in lines(path) if "loss" in line]


def scalars(path: Path) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(path / "tensorboard")).Reload()
    names = [name for name in board.Tags()["scalars"] if name not in CLOCK]
    return {name: [(event.step, event.value) for event in board.Scalars(name)] for name in names}


def assert_same_run(path: Path, whole: Path, epoch: int = 3) -> None:
    assert lines(path) == lines(whole)
    assert scalars(path) == scalars(whole)
    drop = {"seconds", "waited"}
    mine, theirs = (
        torch.load(each / "checkpoints" / f"epoch_{epoch}.pt", weights_only=True) for each in (path, whole)
    )
    assert {k: v for k, v in mine["progress"].items() if k not in drop} == {
        k: v for k, v in theirs["progress"].items() if k not in drop
    }
    torch.testing.assert_close(mine["state_dict"], theirs["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(mine["optimizer"]["state"], theirs["optimizer"]["state"], rtol=0, atol=0)


@pytest.fixture(scope="module")
def whole(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    run_it(tiny_dataset, path)
    return path


@pytest.fixture(scope="module")
def coarse(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a line every four steps."""
    path = tmp_path_factory.mktemp("runs") / "coarse"
    run_it(tiny_dataset, path, COARSE)
    return path


def test_each_step_has_its_line_and_each_epoch_its_evaluation(whole: Path) -> None:
    found = lines(whole)
    assert [line["step"] for line in found if "loss" in line] == list(range(1, 17))
    assert [line["step"] for line in found if "scale" in line] == [0, 6, 11, 16]
    assert [line["samples"] for line in found] == [12 * line["step"] for line in found]
    assert all(set(line) >= {"lr", "logit_scale", "grad_norm", "epoch"} for line in found if "loss" in line)
    results = RunDirectory(whole).results.read()
    assert [(line["step"], line["checkpoint"]) for line in results] == [
        (0, None),
        (6, "epoch_1.pt"),
        (11, "epoch_2.pt"),
        (16, "epoch_3.pt"),
    ]
    board = scalars(whole)
    assert [step for step, _ in board["loss"]] == list(range(1, 17))
    assert [value for _, value in board["loss"]] == [line["loss"] for line in found if "loss" in line]
    assert [step for step, _ in board["scale"]] == [0, 6, 11, 16]
    assert "step 16: scale" in (whole / "out.log").read_text()


def test_the_loss_falls(whole: Path) -> None:
    found = losses(whole)
    assert sum(found[-4:]) < sum(found[:4])


def test_a_finished_run_is_not_started_over(whole: Path, tiny_dataset: Path) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*.json*")}
    result = run_it(tiny_dataset, whole, evaluators=[lambda model, together: pytest.fail("evaluated again")])
    assert result.finished_before
    assert (result.steps, result.samples, result.not_trained) == (16, 192, 0)
    assert result.final_loss == lines(whole)[-2]["loss"]
    assert {path: path.read_bytes() for path in whole.rglob("*.json*")} == before


def test_the_result_says_what_was_done(tiny_dataset: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"batch_size": 25, "epochs": 2})
    result = run_it(tiny_dataset, tmp_path / "run", config, evaluators=())
    assert (result.steps, result.samples, result.not_trained) == (5, 125, 3)
    assert result.checkpoint == tmp_path / "run" / "checkpoints" / "epoch_2.pt"
    assert result.samples_per_second == pytest.approx(125 / result.seconds)
    assert 0 < result.data_wait < 1
    assert not result.finished_before
    assert json.loads(json.dumps(result.as_json()))["checkpoint"].endswith("epoch_2.pt")
    assert "125, and 3 at the end" in result.lines()


@pytest.mark.parametrize("damage", ["missing", "copied"])
def test_a_run_whose_link_was_lost_is_not_started_over(
    tiny_dataset: Path, tmp_path: Path, whole: Path, damage: str
) -> None:
    path = tmp_path / "whole"
    shutil.copytree(whole, path, symlinks=False)
    assert not (path / "checkpoints" / "latest").is_symlink()
    if damage == "missing":
        (path / "checkpoints" / "latest").unlink()
    result = run_it(tiny_dataset, path, evaluators=[lambda model, together: pytest.fail("evaluated again")])
    assert result.finished_before and result.checkpoint.name == "epoch_3.pt"
    assert lines(path) == lines(whole)


def test_a_run_within_an_epoch_ends_with_a_step_file(tiny_dataset: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": None, "samples_seen": 40, "save_every": None})
    result = run_it(tiny_dataset, tmp_path / "run", config)
    assert result.checkpoint.name == "step_3.pt"
    assert [line["step"] for line in lines(result.run) if "scale" in line] == [0, 3]


# Before a line's checkpoint was written, within a checkpoint's commit, and while evaluating.
KILLS = [
    ("line", 8, {"epoch_1.pt"}),
    ("fsync", 9, {"epoch_1.pt", "step_8.pt"}),
    ("evaluator", 1, {"step_10.pt", "epoch_2.pt"}),  # the one being written, or that before it
]


@pytest.mark.parametrize("kills", [KILLS[:2], pytest.param(KILLS, marks=pytest.mark.slow)], ids=["2", "3"])
def test_kill_9_anywhere_changes_no_number(
    tiny_dataset: Path, tmp_path: Path, whole: Path, kills: list[tuple[str, int, set[str]]]
) -> None:
    path = tmp_path / "whole"
    for place, count, newest in kills:
        child = subprocess.run(child_command(tiny_dataset, path, CONFIG, place, count), check=False)
        assert child.returncode == -signal.SIGKILL
        found = RunDirectory(path).latest()
        assert found is not None and found.name in newest
    result = run_it(tiny_dataset, path)
    assert not result.finished_before
    assert_same_run(path, whole)
    assert "goes on after step" in (path / "out.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "exit_code"),
    [pytest.param(signal.SIGINT, 130, id="int"), pytest.param(signal.SIGUSR1, 138, id="usr1")],
)
def test_a_signal_reaches_the_loaders_too_and_the_step_is_kept(
    tiny_dataset: Path, tmp_path: Path, number: int, exit_code: int
) -> None:
    """A terminal sends Ctrl-C to the whole process group, and Slurm may send it what it is told to."""
    run = RunDirectory(tmp_path / "run")
    config = CONFIG.model_copy(update={"workers": 2, "epochs": 60})
    command = child_command(tiny_dataset, run.path, config, "none", 1)
    with subprocess.Popen(command, **CHILD) as child:
        try:
            while child.poll() is None and len(run.metrics.read()) < 3:
                time.sleep(0.01)
            os.killpg(child.pid, number)
            said, _ = child.communicate(timeout=60)
        finally:
            child.kill()
    last = run.metrics.read()[-1]["step"]
    assert said.startswith(f"stopped after step {last}; ")
    assert child.returncode == exit_code
    newest = run.latest()
    assert newest is not None
    assert torch.load(newest, weights_only=True)["step"] == last < 300


@pytest.mark.slow
def test_kill_9_leaves_no_loader_process(tiny_dataset: Path, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    config = CONFIG.model_copy(update={"workers": 2, "epochs": 10_000})
    with subprocess.Popen(child_command(tiny_dataset, run.path, config, "none", 1), **CHILD) as child:
        try:
            while child.poll() is None and len(run.metrics.read()) < 3:
                time.sleep(0.01)
            assert len(living(child.pid)) > 2
            child.kill()
            child.wait()
            wait_until_gone(child.pid)
        finally:
            for pid in living(child.pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("number", "exit_code", "config", "uninterrupted"),
    [
        pytest.param(signal.SIGINT, 130, CONFIG, "whole", id="int", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, COARSE, "coarse", id="term-within-a-line"),
    ],
)
def test_a_signal_ends_the_run_after_the_step_and_it_goes_on(
    tiny_dataset: Path,
    tmp_path: Path,
    number: int,
    exit_code: int,
    config: TrainConfig,
    uninterrupted: str,
    request: pytest.FixtureRequest,
) -> None:
    path = tmp_path / "run"

    def evaluate_and_signal(model: Clip, together: Together) -> Iterator[tuple[str, float]]:
        yield from scale(model, together)
        if not (path / "checkpoints" / "latest").exists():
            return
        signal.raise_signal(number)

    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(TrainInterrupted, match=r"stopped after step 4; .*step_4.pt is written") as stop:
        run_it(tiny_dataset, path, config, at=48, act=lambda: signal.raise_signal(number))
    assert stop.value.exit_code == exit_code
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    with pytest.raises(TrainInterrupted, match=r"stopped after step 6; .*epoch_1.pt is written"):
        run_it(tiny_dataset, path, config, [evaluate_and_signal])
    run_it(tiny_dataset, path, config)
    assert_same_run(path, request.getfixturevalue(uninterrupted))


def test_a_coarse_line_is_the_mean_of_its_steps(coarse: Path, whole: Path) -> None:
    fine = [line["loss"] for line in lines(whole) if "loss" in line]
    means = [(line["step"], line["loss"]) for line in lines(coarse) if "loss" in line]
    assert [step for step, _ in means] == [4, 8, 12, 16]
    for step, loss in means:
        assert loss == pytest.approx(sum(fine[step - 4 : step]) / 4, rel=1e-6)


def test_settings_that_do_not_fit_leave_nothing_behind(tiny_dataset: Path, tmp_path: Path) -> None:
    for change in ({"batch_size": 65}, {"model": "RN51"}, {"warmup": 500.0}):
        with pytest.raises(ConfigError):
            run_it(tiny_dataset, tmp_path / "run", CONFIG.model_copy(update=change))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_loader_processes_change_no_number(tiny_dataset: Path, tmp_path: Path, whole: Path) -> None:
    run_it(tiny_dataset, tmp_path / "whole", CONFIG.model_copy(update={"workers": 2}))
    assert_same_run(tmp_path / "whole", whole)
