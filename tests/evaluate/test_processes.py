"""`clipkit evaluate` in several processes, which it or torchrun starts: the figures of one, told once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.evaluate.config import EvaluateConfig
from clipkit.evaluate.run import evaluate
from clipkit.lines import JsonLines
from clipkit.model.checkpoint import Checkpoint, save_checkpoint
from tests.conftest import picture
from tests.evaluate.spread import MICRO, spread_model
from tests.processes import children_of, in_a_session, living, until
from tests.train.commands import TWO

CAPTIONS = ("red", "a house", "a white shark", "cups", "fire", "a table", "snow")
ENDLESS = 60_000


@pytest.fixture(scope="module", autouse=True)
def alike() -> Iterator[None]:
    """All compute with one thread of the CPU."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three classes, one of them unreadable, and a table with two captions for a picture."""
    root = tmp_path_factory.mktemp("root")
    labelled(root / "pets", 1_104)
    (root / "pets" / "dog" / "00016.jpg").unlink()
    (root / "pets" / "dog" / "00016.jpg").write_bytes(b"none")
    (root / "classes.csv").write_text("folder,names\ncat,cat|kitten\neel,eel\ndog,dog\n")
    for number in range(23):
        (root / f"{number}.jpg").write_bytes(picture(number, 40, 50))
    lines = [f"{n // 2}.jpg\t{CAPTIONS[n % 7]} {n % 5}" for n in range(46)]
    (root / "table.csv").write_text("\n".join(["filepath\ttitle", *lines]) + "\n")
    return root


def labelled(folder: Path, count: int) -> None:
    """Three classes with 20 pictures each, which lie under many names."""
    files = folder.with_name(f"{folder.name}-files")
    files.mkdir()
    for label, name in enumerate(("cat", "dog", "eel")):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            (files / f"{name}{number}").write_bytes(picture(100 * label + number, 40, 50))
        for number in range(count // 3):
            (folder / name / f"{number:05}.jpg").symlink_to(files / f"{name}{number % 20}")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "first" / "checkpoints" / "epoch_2.pt"
    path.parent.mkdir(parents=True)
    weights = spread_model().state_dict()
    content = Checkpoint(epoch=2, name="first", state_dict=weights, model_config=MICRO.model_dump())
    save_checkpoint(path, content)
    return path


@contextmanager
def evaluating(
    root: Path, runs: Path, *words: str | Path, launcher: Sequence[str] = (), folder: str = "pets"
) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, *launcher, "-m", "clipkit", "evaluate", "--runs", runs, *words]
    sets = ("--folder", root / folder, "--classes", root / "classes.csv")
    with in_a_session([*command, *sets]) as process:
        yield process


def results(runs: Path) -> list[dict[str, Any]]:
    return JsonLines(runs / "first" / "results.jsonl").read()


@pytest.mark.slow
def test_two_processes_have_the_figures_of_one_and_speak_and_write_once(
    root: Path, checkpoint: Path, tmp_path: Path
) -> None:
    table = root / "table.csv"
    one, two = ([tmp_path / f"{name}{count}.csv" for name in ("classes", "pictures")] for count in (1, 2))
    words = ("--val-csv", table, "--per-class", two[0], "--predictions", two[1], "--batch-size", "16")
    with evaluating(root, tmp_path / "runs", *words, "--processes", "2") as process:
        printed, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert errors.splitlines()[0] == f"checkpoint: {checkpoint}"
    shown = [line.partition(" in ")[0] for line in errors.splitlines() if ": " in line]
    assert shown.count("pets: 1,104 of 1,104 images") == 1
    assert shown.count("table retrieval, all captions of a picture: 69 of 69 queries") == 1
    assert printed.count("top-1") == 4 and printed.count("added to ") == 1  # a header, the three worst
    (classifier,) = (tmp_path / "cache" / "classifiers").iterdir()
    kept = classifier.read_bytes()
    classifier.unlink()

    config = EvaluateConfig(
        folder=root / "pets",
        classes=root / "classes.csv",
        val_csv=table,
        per_class=one[0],
        predictions=one[1],
        batch_size=16,
    )
    evaluate(checkpoint, config, device="cpu")
    assert classifier.read_bytes() == kept
    of_two, of_one = results(tmp_path / "runs")[:2], results(tmp_path / "runs")[2:]
    assert len(of_two[0]["unreadable"]) == 1 and of_two[0]["images"] == 1_103
    for record in of_two + of_one:
        del record["date"], record["options"]
    assert of_two == of_one
    for path, other in zip(one, two, strict=True):
        assert path.read_bytes() == other.read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("checkpoint")
def test_torchruns_processes_evaluate_together_even_a_single_picture(root: Path, tmp_path: Path) -> None:
    (tmp_path / "few" / "cat").mkdir(parents=True)
    (tmp_path / "few" / "cat" / "1.jpg").write_bytes(picture(1))
    (tmp_path / "classes.csv").write_text("folder,names\ncat,cat\n")
    with evaluating(tmp_path, tmp_path / "runs", "--json", launcher=TWO, folder="few") as process:
        printed, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    (record,) = results(tmp_path / "runs")
    assert json.loads(printed)["results"] == [record] and record["images"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("checkpoint")
def test_what_all_processes_meet_is_told_once(root: Path, tmp_path: Path) -> None:
    labelled(tmp_path / "bad", 60)
    (tmp_path / "bad-files" / "dog3").write_bytes(b"none")
    (tmp_path / "classes.csv").write_text("folder,names\ncat,cat\neel,eel\ndog,dog\n")
    words = ("--per-class", tmp_path / "table.csv", "--processes", "2", "--batch-size", "4")
    for folder, expected in (("bad", "more than 0.1% of 60 pictures cannot be read"), ("none", "none: ")):
        with evaluating(tmp_path, tmp_path / "runs", *words, folder=folder) as process:
            printed, errors = process.communicate(timeout=200)
        assert (process.returncode, printed) == (1, "")
        assert errors.count("clipkit: ") == 1 and expected in errors.splitlines()[-1]
        assert results(tmp_path / "runs") == [] and not (tmp_path / "table.csv").exists()


@pytest.fixture(scope="module")
def endless(root: Path) -> Path:
    labelled(root / "endless", ENDLESS)
    return root


@contextmanager
def at_work(root: Path, runs: Path, *words: str) -> Iterator[tuple["subprocess.Popen[str]", list[int]]]:
    """A command in two processes, in the midst of its pictures, and their numbers."""
    with evaluating(root, runs, *words, "--processes", "2", "--workers", "0", folder="endless") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("endless: "):
                break
        yield process, children_of(process.pid)


def nothing_left(ranks: list[int], runs: Path) -> None:
    assert len(ranks) == 2
    until(lambda: not any(map(living, ranks)), "all end")
    assert results(runs) == []


@pytest.mark.slow
@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_with_one_line(endless: Path, tmp_path: Path, rank: int) -> None:
    table = tmp_path / "table.csv"
    with at_work(endless, tmp_path / "runs", "--per-class", str(table)) as (process, ranks):
        os.kill(ranks[rank], signal.SIGKILL)
        printed, errors = process.communicate(timeout=120)
    assert (process.returncode, printed) == (1, "")
    assert errors.splitlines()[-1] == (
        f"clipkit: process {rank} of 2 was killed by SIGKILL, as the system does when memory runs out, "
        "and all were ended: mend the cause; run the same command again"
    )
    assert errors.count("clipkit: ") == 1 and "Traceback" not in errors
    nothing_left(ranks, tmp_path / "runs")
    assert not table.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_command_ends_all_quietly(
    endless: Path, tmp_path: Path, number: int, exit_code: int
) -> None:
    with at_work(endless, tmp_path / "runs") as (process, ranks):
        process.send_signal(number)
        printed, errors = process.communicate(timeout=120)
    assert (process.returncode, printed) == (exit_code, "")
    assert "clipkit: " not in errors and "Traceback" not in errors
    nothing_left(ranks, tmp_path / "runs")
