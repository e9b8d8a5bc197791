import json

import pytest

from clipkit import progress
from clipkit.progress import Progress


def test_figures_are_lines_of_json_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    with Progress("ingest", 10, "URLs") as display:
        display.update(3, "words", {"ok": 0.5})
        display.say("ingest: beside it")
        monkeypatch.setattr(progress, "PLAIN_SECONDS", 1e9)
        display.update(9, "words", {"ok": 1.0})
    first, said, last = capsys.readouterr().err.splitlines()
    assert said == "ingest: beside it"
    lines = [json.loads(first), json.loads(last)]
    assert all(line.pop("seconds") >= 0 for line in lines)
    assert lines == [
        {"stage": "ingest", "done": 3, "total": 10, "ok": 0.5},
        {"stage": "ingest", "done": 9, "total": 10, "ok": 1.0},
    ]


def test_without_figures_they_are_lines_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", None, "samples") as display:
        display.update(1000, "loss 3.2")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train: 1,000 samples in ") and line.endswith(" s  loss 3.2")
