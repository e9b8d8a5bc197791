"""Files and folders whose names are no text."""

import io
import json
import os
import sys
from pathlib import Path

import pytest

from clipkit.errors import TrainError
from clipkit.finetune.config import FinetuneConfig
from clipkit.finetune.run import finetune
from clipkit.train.run_directory import RunDirectory
from tests.finetune.pictures import CLASSES, draw, zero_shot_model
from tests.threads import one_thread as one_thread


def odd(name: bytes) -> str:
    return os.fsdecode(name)


def test_names_that_are_no_utf_8_are_written_down_readably(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")  # as Python's own
    monkeypatch.setattr(sys, "stderr", stderr)
    classes = tmp_path / odd(b"classes\xff.csv")
    classes.write_text(CLASSES)
    train = draw(tmp_path / odd(b"train\xff"), 6, seed=0)
    (train / "red" / odd(b"\xff.png")).write_bytes(b"no picture")
    config = FinetuneConfig(
        folder=train,
        classes=classes,
        val_folder=draw(tmp_path / odd(b"a\xff") / odd(b"val\xff"), 2, seed=1),
        shifted=[draw(tmp_path / odd(b"b\xff") / odd(b"val\xff"), 2, seed=2)],
        batch_size=6,
        epochs=1,
        workers=0,
        log_every=1,
        alphas=(0.5,),
        save_alpha=(0.5,),
    )
    checkpoint = zero_shot_model(tmp_path / odd(b"zero\xff.pt"))
    with pytest.raises(TrainError, match="expected the run's folder to have a path in UTF-8"):
        finetune(checkpoint, config, RunDirectory(tmp_path / odd(b"run\xff")))
    run = RunDirectory(tmp_path / "run")
    result = finetune(checkpoint, config, run)
    names = ["a\ufffd-val\ufffd", "b\ufffd-val\ufffd"]
    assert [each["set"] for each in result.records] == names
    lines = [json.loads(line) for line in (run.path / "results.jsonl").read_text().splitlines()]
    assert lines[-2:] == json.loads(json.dumps(list(result.records)))
    assert lines[-1]["trained_path"].endswith("train\ufffd") and lines[-1]["trained_unreadable"] == 1
    assert "red/\ufffd.png: its picture cannot be decoded" in (run.path / "out.log").read_text()
    again = finetune(checkpoint, config, run)
    assert [each["top1"] for each in again.records] == [each["top1"] for each in result.records]
