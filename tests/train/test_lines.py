from pathlib import Path

import pytest

from clipkit.errors import TrainError
from clipkit.train.lines import JsonLines


def test_lines_come_back_and_nan_is_null(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "lines.jsonl")
    assert lines.read() == []
    lines.append({"step": 1, "loss": 0.1})
    lines.append({"step": 2, "top1": float("nan"), "name": "ü"})
    assert lines.read() == [{"step": 1, "loss": 0.1}, {"step": 2, "top1": None, "name": "ü"}]


@pytest.mark.parametrize("torn", ['{"step": 2, "lo', '{"step": 2, "name": "\xc3', "\0\0\0", "[1]"])
def test_what_a_kill_tore_is_no_line_and_keep_removes_it(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "lines.jsonl"
    lines = JsonLines(path)
    lines.append({"step": 1})
    with path.open("a", encoding="latin-1") as file:
        file.write(torn)
    assert lines.read() == [{"step": 1}]
    lines.keep(lambda line: True)
    lines.append({"step": 2})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").mkdir()
    with pytest.raises(TrainError, match=r"lines.jsonl: cannot be written, Is a directory"):
        JsonLines(tmp_path / "lines.jsonl").append({"step": 1})
