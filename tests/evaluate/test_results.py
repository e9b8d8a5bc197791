import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipkit.errors import EvaluationError
from clipkit.evaluate.results import append_line, file_sha256, read_lines, results_path


def test_results_belong_to_the_run_or_beside_the_file(tmp_path: Path) -> None:
    assert results_path(tmp_path / "runs/a/checkpoints/epoch_3.pt") == tmp_path / "runs/a/results.jsonl"
    assert results_path(tmp_path / "RN50.pt") == tmp_path / "results.jsonl"


def test_append_and_read(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_line(path, {"set": "naïve", "top1": 0.5})
    append_line(path, {"set": "b\nc"})
    assert path.read_bytes().count(b"\n") == 2
    assert read_lines(path) == [{"set": "naïve", "top1": 0.5}, {"set": "b\nc"}]


@given(cut=st.integers(min_value=0, max_value=200))
def test_a_line_torn_anywhere_costs_only_itself(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("results") / "results.jsonl"
    first, second, third = {"n": 1}, {"n": 2, "set": "größer"}, {"n": 3}
    append_line(path, first)
    start = path.stat().st_size
    append_line(path, second)
    whole = path.read_bytes()
    kept = min(start + cut, len(whole))
    path.write_bytes(whole[:kept])
    # A line that lacks nothing but its newline is whole.
    expected = [first] + [second] * (kept >= len(whole) - 1)
    assert read_lines(path) == expected
    append_line(path, third)
    assert read_lines(path) == [*expected, third]
    assert path.read_bytes().endswith(b"\n")


def test_damage_elsewhere_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"n": 1}\nnonsense\n{"n": 2}\n')
    with pytest.raises(EvaluationError, match="line 2: expected a JSON object, found 'nonsense'"):
        read_lines(path)
    path.write_text("[1]\n")
    with pytest.raises(EvaluationError, match="line 1: expected a JSON object"):
        read_lines(path)
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_lines(tmp_path / "none.jsonl")


_APPEND_MANY = """
import sys
from pathlib import Path
from clipkit.evaluate.results import append_line
for number in range(50):
    append_line(Path(sys.argv[1]), {"writer": int(sys.argv[2]), "number": number, "pad": "x" * 500})
"""


def test_several_processes_may_append_at_once(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    command = [sys.executable, "-c", _APPEND_MANY, str(path)]
    writers = [subprocess.Popen([*command, str(writer)]) for writer in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    lines = read_lines(path)
    written = sorted((line["writer"], line["number"]) for line in lines)
    assert written == [(writer, number) for writer in range(2) for number in range(50)]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    # A file size limit ends a write in its middle, as a full disk does.
    path = tmp_path / "results.jsonl"
    append_line(path, {"n": 1})
    before = path.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(EvaluationError, match="make room and evaluate again"):
            append_line(path, {"n": 2, "pad": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before


def test_unwritable_place_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="the result cannot be written: No such file"):
        append_line(tmp_path / "none" / "results.jsonl", {})


def test_a_figure_that_is_no_number_is_never_written(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_line(path, {"top1": float("nan")})
    assert not path.exists()


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
