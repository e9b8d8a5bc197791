import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipkit.errors import EvaluationError, TrainError
from clipkit.lines import JsonLines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lines.jsonl"


def test_lines_come_back_and_nan_is_null(path: Path) -> None:
    lines = JsonLines(path)
    assert lines.read() == []
    lines.append({"step": 1, "loss": 0.1})
    lines.append({"step": 2, "top1": float("nan"), "name": "ü\nv"}, durable=True)
    assert path.read_bytes().count(b"\n") == 2
    assert lines.read() == [{"step": 1, "loss": 0.1}, {"step": 2, "top1": None, "name": "ü\nv"}]


def test_a_number_deeper_down_that_is_none_is_never_written(path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        JsonLines(path).append({"interval": [0.1, float("nan")]})
    assert not path.exists()


@given(cut=st.integers(min_value=0, max_value=200))
def test_a_line_torn_anywhere_costs_only_itself(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("lines") / "lines.jsonl"
    lines = JsonLines(path)
    first, second, third = {"n": 1}, {"n": 2, "set": "größer"}, {"n": 3}
    lines.append(first)
    start = path.stat().st_size
    lines.append(second)
    whole = path.read_bytes()
    kept = min(start + cut, len(whole))
    path.write_bytes(whole[:kept])
    # A line that lacks nothing but its newline is whole.
    expected = [first] + [second] * (kept >= len(whole) - 1)
    assert lines.read() == expected
    lines.append(third)
    assert lines.read() == [*expected, third]
    assert path.read_bytes().endswith(b"\n")


TORN = ['{"step": 2, "lo', '{"step": 2, "name": "\xc3', "\0\0\0", "[1]", "[" * 100_000]


@pytest.mark.parametrize("torn", TORN, ids=["object", "letter", "zeros", "list", "depth"])
def test_what_is_no_object_is_no_line_wherever_it_stands(path: Path, torn: str) -> None:
    path.write_text(f'{{"step": 1}}\n{torn}\n{{"step": 3}}\n{torn}', encoding="latin-1")
    lines = JsonLines(path)
    assert lines.read() == [{"step": 1}, {"step": 3}]
    lines.keep(lambda line: line["step"] > 1)
    lines.append({"step": 4})
    assert path.read_text() == '{"step": 3}\n{"step": 4}\n'


def test_what_cannot_be_written_or_read_is_one_line_of_the_stage(path: Path) -> None:
    path.mkdir()
    says = r"lines.jsonl: cannot be written, Is a directory"
    with pytest.raises(TrainError, match=says):
        JsonLines(path, TrainError).append({"step": 1})
    with pytest.raises(EvaluationError, match=says):
        JsonLines(path, EvaluationError).check()
    with pytest.raises(EvaluationError, match="cannot be read, Is a directory"):
        JsonLines(path, EvaluationError).read()
    with pytest.raises(EvaluationError, match="cannot be written, No such file"):
        JsonLines(path.parent / "none" / "lines.jsonl", EvaluationError).check()


def test_checking_adds_nothing(path: Path) -> None:
    JsonLines(path).check()
    assert not path.exists()
    path.write_text("{}\n")
    JsonLines(path).check()
    assert path.read_text() == "{}\n"


_APPEND_MANY = """
import sys
from pathlib import Path
from clipkit.lines import JsonLines
for number in range(int(sys.argv[3])):
    JsonLines(Path(sys.argv[1])).append({"writer": int(sys.argv[2]), "number": number, "pad": "x" * 500})
"""


def writing(path: Path, writer: int, count: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", _APPEND_MANY, str(path), str(writer), str(count)])


def test_no_line_is_lost_while_the_file_is_cut_back(path: Path) -> None:
    lines = JsonLines(path)
    lines.append({"writer": 9, "number": 0})
    writers = [writing(path, writer, 300) for writer in range(2)]
    while any(writer.poll() is None for writer in writers):
        lines.keep(lambda line: line["writer"] != 9)
    assert [writer.returncode for writer in writers] == [0, 0]
    written = [(line["writer"], line["number"]) for line in lines.read()]
    assert sorted(written) == [(writer, number) for writer in range(2) for number in range(300)]


def test_a_line_written_between_reading_and_replacing_waits_and_stays(path: Path) -> None:
    lines = JsonLines(path)
    lines.append({"writer": 9})
    writers = []

    def start_a_writer(line: dict[str, object]) -> bool:
        writers.append(writing(path, 1, 1))
        with pytest.raises(subprocess.TimeoutExpired):  # it waits for as long as the cut goes on
            writers[0].wait(timeout=1)
        return True

    lines.keep(start_a_writer)
    assert writers[0].wait() == 0
    assert [line["writer"] for line in lines.read()] == [9, 1]


def test_a_full_disk_leaves_no_half_line(path: Path) -> None:
    # A file size limit ends a write in its middle, as a full disk does.
    lines = JsonLines(path, EvaluationError)
    lines.append({"n": 1})
    before = path.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(EvaluationError, match="make room and run the same command again"):
            lines.append({"n": 2, "pad": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before


def test_kept_lines_stay_byte_for_byte(path: Path) -> None:
    text = '{"a":1.10,  "b": "\\u00fc"}\n'
    path.write_text(text + json.dumps({"a": 2}) + "\n")
    JsonLines(path).keep(lambda line: line["a"] < 2)
    assert path.read_text() == text
