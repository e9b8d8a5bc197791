import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clipkit.errors import CheckpointError, TrainError
from clipkit.train.length import RunLength
from clipkit.train.run_directory import RunDirectory, newest_checkpoint

HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("held", flush=True)
input()
"""


LENGTH = RunLength(samples=120, batch_size=1, epoch_samples=40)


def checkpoint(run: RunDirectory, name: str, time_ns: int = 0) -> Path:
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    path = run.checkpoints / name
    path.write_bytes(b"weights")
    os.utime(path, ns=(time_ns, time_ns))
    return path


def test_a_new_run_has_nothing(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "first")
    assert run.latest() is None
    assert not run.path.exists()
    with run.opened():
        assert run.read_config() is None
        run.write_config({"seed": 1})
    with run.opened():
        assert run.read_config() == {"seed": 1}


def test_a_folder_of_something_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(TrainError, match=r"expected a run or an empty folder, found thesis.tex"):
        RunDirectory(tmp_path).opened().__enter__()
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(TrainError, match="found a file"):
        RunDirectory(tmp_path / "thesis.tex").opened().__enter__()


def test_a_run_may_hold_more_files(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_config({})
    (tmp_path / "curves.png").write_bytes(b"")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".step_9.pt.tmp").write_bytes(b"half of a checkpoint")
    with run.opened():
        assert (tmp_path / "curves.png").exists()
        assert list(run.checkpoints.iterdir()) == []


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.opened():
        pass
    program = [sys.executable, "-S", "-c", HOLD, str(run.path / ".lock")]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(TrainError, match="another process is training this run"):
            run.opened().__enter__()
        other.communicate(b"\n")
    with run.opened():
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_without(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.lockf", raising(number))
    run = RunDirectory(tmp_path / "run")
    with run.opened():
        run.write_config({"seed": 1})
    assert run.read_config() == {"seed": 1}


def test_an_error_of_the_disk_is_no_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.lockf", raising(errno.EIO))
    with pytest.raises(
        TrainError, match="the run's folder cannot be written, Input/output error: mend that, or"
    ):
        RunDirectory(tmp_path / "run").opened().__enter__()


def test_an_error_within_the_run_keeps_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, RunDirectory(tmp_path / "run").opened():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not isinstance(caught.value, TrainError)


def raising(number: int) -> Callable[..., None]:
    def lockf(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return lockf


def test_a_damaged_config_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model": ')
    with pytest.raises(TrainError, match=r"config.json: expected a run's settings in JSON"):
        RunDirectory(tmp_path).read_config()


def names(run: RunDirectory) -> set[str]:
    return {path.name for path in run.checkpoints.iterdir()} - {"latest"}


def test_the_last_step_files_and_all_epoch_files_stay(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for name in ["step_9.pt", "epoch_1.pt", "step_50.pt", "step_100.pt", "epoch_3.pt"]:
        run.set_latest(checkpoint(run, name), None, LENGTH)
        assert run.latest() == run.checkpoints / name
    assert names(run) == {"epoch_1.pt", "epoch_3.pt", "step_50.pt", "step_100.pt"}


@pytest.mark.parametrize("clock", [1, 0, -1], ids=["forward", "standing", "backward"])
def test_the_newest_by_training_stay_whatever_the_clock_says(tmp_path: Path, clock: int) -> None:
    run = RunDirectory(tmp_path)
    for number, name in enumerate(["step_9.pt", "epoch_1.pt", "epoch_2.pt", "step_100.pt", "epoch_3.pt"]):
        run.set_latest(checkpoint(run, name, 1000 + clock * number), 2, LENGTH)
        assert run.latest() == run.checkpoints / name
    assert names(run) == {"step_100.pt", "epoch_3.pt"}


@pytest.mark.parametrize("keep", [None, 1, 2])
def test_what_was_just_written_stays_beside_files_that_claim_to_be_newer(
    tmp_path: Path, keep: int | None
) -> None:
    run = RunDirectory(tmp_path)
    for number in (100, 101, 102):
        checkpoint(run, f"step_{number}.pt", 10**18)
    run.set_latest(checkpoint(run, "step_9.pt"), keep, LENGTH)
    assert run.latest() == run.checkpoints / "step_9.pt"
    assert len(names(run)) == (keep or 2)


def test_files_of_other_names_stay(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    mine = {"my_converted.pt", "step_1_best.pt", "step_best.pt", "epoch_1.pt.safetensors", "old_epoch_1.pt"}
    for name in mine:
        checkpoint(run, name)
    for number in range(1, 5):
        run.set_latest(checkpoint(run, f"step_{number}.pt", number), 1, LENGTH)
    assert names(run) == mine | {"step_4.pt"}


def test_a_lost_checkpoint_is_said(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    path = checkpoint(run, "epoch_1.pt", 0)
    run.set_latest(path, 1, LENGTH)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"latest: names 'epoch_1.pt', which is not there: restore it$"):
        run.latest()
    checkpoint(run, "step_30.pt", 0)
    with pytest.raises(CheckpointError, match="restore it, or remove this link to go on from an older one"):
        run.latest()


def settings(batch_size: int, samples: int) -> dict[str, object]:
    return {"batch_size": batch_size, "data": {"samples": samples}}


@pytest.mark.parametrize("copied", [False, True], ids=["no-latest", "latest-is-a-file"])
@pytest.mark.parametrize(("steps", "newest"), [(3, "epoch_2.pt"), (25, "step_25.pt")])
def test_a_copy_without_the_link_goes_on_from_what_is_furthest_trained(
    tmp_path: Path, copied: bool, steps: int, newest: str
) -> None:
    run = RunDirectory(tmp_path / "runs" / "copy")
    for number, name in enumerate(["epoch_2.pt", "epoch_1.pt", f"step_{steps}.pt", "epoch_99_best.pt"]):
        checkpoint(run, name, number)
    if copied:
        checkpoint(run, "latest", 0)
    run.write_config(settings(batch_size=4, samples=40))
    assert run.latest() == newest_checkpoint(tmp_path / "runs") == run.checkpoints / newest
    run.set_latest(checkpoint(run, "epoch_3.pt"), None, LENGTH)
    assert (run.checkpoints / "latest").is_symlink()
    assert run.latest() == run.checkpoints / "epoch_3.pt"


def test_older_checkpoints_by_training(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    names = ["epoch_2.pt", "epoch_1.pt", "step_25.pt", "step_3.pt", "epoch_99_best.pt", "latest"]
    epoch_2, epoch_1, step_25, step_3, _, latest = (checkpoint(run, name) for name in names)
    assert run.older(epoch_2) == []
    run.write_config(settings(batch_size=4, samples=40))
    assert run.older(epoch_2) == [epoch_1, step_3]
    assert run.older(latest) == [step_25, epoch_2, epoch_1, step_3]
    assert run.older(run.checkpoints / "epoch_3.pt") == [step_25, epoch_2, epoch_1, step_3]


def test_a_copy_of_latest_alone_is_a_checkpoint(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    path = checkpoint(run, "latest")
    assert run.latest() == path


def test_without_link_and_settings_nothing_is_guessed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    checkpoint(run, "epoch_1.pt")
    checkpoint(run, "step_50.pt")
    with pytest.raises(CheckpointError, match=r"to tell which of 2 checkpoints is the newest"):
        run.latest()


def test_latest_names_no_file_elsewhere(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    (tmp_path / "evil.pt").write_bytes(b"")
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "latest").symlink_to("../../evil.pt")
    with pytest.raises(CheckpointError):
        run.latest()


def test_newest_checkpoint_is_of_the_run_that_wrote_last(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run in it has a checkpoint"):
        newest_checkpoint(tmp_path / "nowhere")
    for number, name in enumerate(["b", "c", "a"]):
        run = RunDirectory(tmp_path / name)
        run.set_latest(checkpoint(run, f"epoch_{number}.pt"), 1, LENGTH)
        os.utime(run.checkpoints / "latest", ns=(number, number), follow_symlinks=False)
    (tmp_path / "d").mkdir()
    assert newest_checkpoint(tmp_path) == tmp_path / "a" / "checkpoints" / "epoch_2.pt"


def test_cut_back_leaves_what_will_not_be_written_again(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step in (1, 2, 3):
        run.metrics.append({"step": step, "loss": 1.0})
        run.add_evaluation({"step": step, "top1": 0.5}, f"epoch_{step}.pt")
    run.results.append({"kind": "zero-shot", "step": 3, "top1": 0.5})
    run.cut_back(2)
    steps = [(line["step"], "loss" in line) for line in run.metrics.read()]
    assert steps == [(1, True), (1, False), (2, True), (2, False)]
    assert [(line["kind"], line["step"]) for line in run.results.read()] == [
        ("training", 1),
        ("training", 2),
        ("zero-shot", 3),
    ]
    assert run.is_evaluated(2)


def test_half_of_an_evaluation_is_cut(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.metrics.append({"step": 2, "loss": 1.0})
    run.metrics.append({"step": 2, "top1": 0.5})  # and killed before results.jsonl was written
    run.cut_back(2)
    assert run.metrics.read() == [{"step": 2, "loss": 1.0}]
    assert not run.is_evaluated(2)
