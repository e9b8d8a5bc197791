"""Checkpoints that a thread writes while the run is killed or the disk fails: the one before stays whole."""

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from clipkit.errors import TrainError
from clipkit.model.checkpoint import load_checkpoint
from clipkit.train.config import TrainConfig
from clipkit.train.run_directory import RunDirectory
from tests.conftest import disk_of
from tests.ingest.interrupting import Moment, ended, started
from tests.processes import until
from tests.train.test_run import assert_same_run, run_it

# 64 samples: 5 steps, of which the last closes the epoch; step 2 and 4 are saved besides.
CONFIG = TrainConfig(
    model="ViT-Micro/16@32px",
    batch_size=12,
    samples_seen=64,
    lr=1e-3,
    save_every=24,
    log_every=1,
    workers=0,
    keep=2,
)
CHECKPOINTS = r"/checkpoints"
MOMENTS = [
    Moment(calls, path, number, before)
    for calls, path, number in (
        ("fsync", rf"{CHECKPOINTS}/\.?step_2\.pt", 1),
        ("replace", rf"{CHECKPOINTS}/\.step_2\.pt", 1),
        ("replace", rf"{CHECKPOINTS}/\.latest", 1),
        ("fsync", rf"{CHECKPOINTS}/\.?step_4\.pt", 1),
        ("replace", rf"{CHECKPOINTS}/\.step_4\.pt", 1),
        ("fsync", rf"{CHECKPOINTS}$", 3),
        ("replace", rf"{CHECKPOINTS}/\.latest", 2),
        ("replace", rf"{CHECKPOINTS}/\.epoch_1\.pt", 1),
        ("replace", rf"{CHECKPOINTS}/\.latest", 3),
        ("unlink", rf"{CHECKPOINTS}/step_2\.pt", 1),
    )
    for before in (True, False)
]
A_FEW = [MOMENTS[8]]  # before a second checkpoint gets its name


@pytest.fixture(scope="module")
def whole(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    run_it(tiny_dataset, path, CONFIG)
    assert {each.name for each in (path / "checkpoints").glob("*.pt")} == {"step_4.pt", "epoch_1.pt"}
    return path


def program(dataset: Path, run: Path) -> list[str]:
    script = Path(__file__).with_name("killed_run.py")
    return [*map(str, (script, dataset, run, CONFIG.model_dump_json(), "none", 1))]


def check_kills(moments: Sequence[Moment], dataset: Path, whole: Path, folder: Path) -> None:
    for number, moment in enumerate(moments):
        path = folder / str(number) / whole.name
        code, _, errors = ended(started(program(dataset, path), folder, moment))
        assert code == -9, (moment, errors)
        newest = RunDirectory(path).latest()
        held = {each.name: load_checkpoint(each).step for each in (path / "checkpoints").glob("*.pt")}
        assert newest is None or newest.name in held, moment
        if newest is not None:  # nothing that was named before is lost, and what is named is the newest
            assert held[newest.name] >= max(held.values()) - 2
        run_it(dataset, path, CONFIG)
        assert_same_run(path, whole, epoch=1)
        left = {each.name for each in (path / "checkpoints").iterdir()}
        assert {"epoch_1.pt", "latest"} < left <= {"step_2.pt", "step_4.pt", "epoch_1.pt", "latest"}
    assert len((folder / "deeds").read_text().splitlines()) == len(moments)


@pytest.mark.slow
def test_killed_while_it_is_written(tiny_dataset: Path, tmp_path: Path, whole: Path) -> None:
    check_kills(A_FEW, tiny_dataset, whole, tmp_path)


@pytest.mark.slow
def test_killed_at_each_change_of_a_files_name(tiny_dataset: Path, tmp_path: Path, whole: Path) -> None:
    check_kills(MOMENTS, tiny_dataset, whole, tmp_path)


@contextmanager
def full(path: Path) -> Iterator[Callable[[], object]]:
    with disk_of("60m", path.parent):  # there is room for one
        yield bool


@contextmanager
def read_only(path: Path) -> Iterator[Callable[[], object]]:
    folder = str(path / "checkpoints")

    def protect() -> None:
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)

    with disk_of("200m", path.parent):
        yield protect
        subprocess.run(["umount", folder], check=True)


@contextmanager
def removed(path: Path) -> Iterator[Callable[[], object]]:
    path.parent.mkdir()
    yield lambda: shutil.rmtree(path / "checkpoints")


FAILED = r"step_[24]\.pt: the checkpoint cannot be written, "


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (full, FAILED + r"No space left on device; .*step_2\.pt is whole$"),
        (read_only, FAILED + r"Read-only file system; .*step_2\.pt is whole$"),
        # It may also go before the first one is known to be whole.
        (removed, FAILED + r"No such file or directory; (.*step_2\.pt is gone too|there is none yet)$"),
    ],
)
def test_a_disk_that_fails_ends_the_run_and_it_goes_on(
    tiny_dataset: Path,
    tmp_path: Path,
    whole: Path,
    fault: Callable[[Path], AbstractContextManager[Callable[[], object]]],
    said: str,
) -> None:
    path = tmp_path / "runs" / whole.name
    with fault(path) as act:

        def when_one_is_there() -> None:
            until((path / "checkpoints" / "latest").exists, "the first checkpoint is whole")
            act()

        with pytest.raises(TrainError, match=said):
            run_it(tiny_dataset, path, CONFIG, at=3 * CONFIG.batch_size, act=when_one_is_there)
        assert not list((path / "checkpoints").glob(".*")), "half a checkpoint is left"
        mended = shutil.copytree(path, tmp_path / "mended" / whole.name, symlinks=True)
    run_it(tiny_dataset, mended, CONFIG)
    assert_same_run(mended, whole, epoch=1)
