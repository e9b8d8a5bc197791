"""Weights & Biases, the real package, offline: what its files hold after a run was killed and resumed."""

import importlib.util
import os
import signal
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clipkit.errors import ConfigError
from clipkit.train.run_directory import RunDirectory
from tests.train.test_run import CONFIG, child_command, run_it

LOGGED = CONFIG.model_copy(update={"wandb": True, "wandb_project": "emoji"})
BLOCK = 32_768  # of LevelDB's log format, which a .wandb file is, behind seven bytes


def records(file: Path) -> list[Any]:
    """The protocol buffers in a .wandb file."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, found, begun = file.read_bytes(), 7, [], b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        begun += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(begun))
            begun = b""
    return found


def history(file: Path) -> dict[int, dict[str, str]]:
    """The rows of a .wandb file by step, values as JSON."""
    rows = {}
    for record in records(file):
        if record.WhichOneof("record_type") == "history":
            row = {"".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            step = int(row.pop("_step"))
            assert step not in rows
            rows[step] = {name: value for name, value in row.items() if not name.startswith("_")}
    return rows


@pytest.mark.slow
def test_a_killed_and_resumed_run_is_whole_under_one_id(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = RunDirectory(tmp_path / "run")
    child = subprocess.run(child_command(tiny_dataset, run.path, LOGGED, "line", 9), check=False)
    assert child.returncode == -signal.SIGKILL
    run_it(tiny_dataset, run.path, LOGGED)
    first, last = sorted((run.path / "wandb").glob("offline-run-*/*.wandb"))
    assert first.name == last.name == f"run-{(run.path / 'wandb-id').read_text().strip()}.wandb"
    rows = history(last)
    assert sorted(rows) == list(range(17))
    for line in run.metrics.read():
        for name, value in line.items():
            assert float(rows[line["step"]][name]) == value
    (begun,) = [record.run for record in records(last) if record.WhichOneof("record_type") == "run"]
    assert (begun.project, begun.display_name) == ("emoji", "run")
    config = {item.key: item.value_json for item in begun.config.update}
    assert config["batch_size"] == "12"
    out = (run.path / "out.log").read_text()
    assert f"W&B: {last.parent}; upload it with `wandb sync {last.parent}`" in out


@pytest.mark.slow
def test_without_a_key_there_is_one_line_and_no_question(tiny_dataset: Path, tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    command = child_command(tiny_dataset, tmp_path / "run", LOGGED, "none", 1)
    done = subprocess.run(
        command, env=clean | {"HOME": str(tmp_path)}, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == (
        "clipkit.errors.TrainError: W&B: no API key: run `wandb login`, or set WANDB_MODE=offline"
    )
    assert "rowser" not in done.stderr + done.stdout


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="the extra is here")
def test_without_the_package_the_extra_is_named(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected the extra wandb, .*; pip install '.\[wandb\]'"):
        run_it(tiny_dataset, tmp_path / "run", LOGGED)
