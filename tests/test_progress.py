import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
from functools import partial

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


def test_a_line_of_text_tells_the_time_to_go_at_the_pace_of_this_sitting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Progress("train", 10_000, "samples") as display:
        for second, done in enumerate((5_000, 5_010, 5_020)):  # half of it was done before
            monkeypatch.setattr("time.monotonic", partial(float, 1000 + second))
            display.update(done)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(", 8:18 to go")


LONG = """
import time
from clipkit.progress import Progress

note = "1,234 URLs/s, 45.6 MB/s, ok 90%; http_4xx 123,456, dns_not_found 12,345, not_an_image 1,234"
with Progress("ingest", 3_318_333, "URLs") as display:
    for done in (1_200_000, 1_201_234):
        display.update(done, note)
        time.sleep(0.5)
    display.say("beside it")
"""


def on_a_terminal(program: str, columns: int) -> list[str]:
    """The lines that a program writes to a terminal of that width, each picture's anew, without colours."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    sizes = {"COLUMNS", "LINES"}
    environment = {name: value for name, value in os.environ.items() if name not in sizes} | {"TERM": "xterm"}
    written = b""
    with subprocess.Popen([sys.executable, "-c", program], stderr=theirs, env=environment) as process:
        os.close(theirs)
        try:
            while piece := os.read(ours, 4096):
                written += piece
        except OSError:  # Linux tells the end of a terminal so
            pass
        os.close(ours)
    assert process.returncode == 0, written
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode())
    return [line for line in re.split(r"[\r\n]+", plain) if line]


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_bar_and_figures_stay_readable_beside_a_long_note(columns: int) -> None:
    lines = on_a_terminal(LONG, columns)
    bars = [line for line in lines if "1,201,234/" in line]
    assert bars and all(len(line.rstrip()) <= columns for line in lines)
    for line in bars:
        assert re.fullmatch(r"ingest [━╸╺]{15,40} 1,201,234/3,318,333 URLs \d+:\d\d to go *", line)
    notes = [line.rstrip() for line in lines if line.startswith("1,234 URLs/s, 45.6 MB/s, ok 90%; http_4xx")]
    assert notes and all(line.endswith("not_an_image 1,234" if columns > 90 else "…") for line in notes[:-1])
    assert "beside it" in lines


HOSTILE = """
from clipkit.progress import Progress

name = "\\x1b]0;mine\\x07 \\x9b2J \\u202egpj [red]x[/red] :cat: \\udce9"
with Progress(f"t {name}", 2, "files") as display:
    display.update(1, f"n {name}")
    display.say(f"s {name}")
"""


def test_names_of_strangers_are_shown_as_they_are_and_steer_no_terminal() -> None:
    shown = r"\x1b]0;mine\x07 \x9b2J \u202egpj [red]x[/red] :cat: \udce9"
    lines = {line.rstrip() for line in on_a_terminal(HOSTILE, 200)}
    assert {f"s {shown}", f"n {shown}"} <= lines
    assert any(line.startswith(f"t {shown} ") for line in lines), lines


@pytest.mark.parametrize(("rank", "by_torchrun", "shown"), [("0", True, 2), ("1", True, 0), ("1", False, 2)])
def test_of_the_processes_that_torchrun_starts_one_speaks(
    rank: str,
    by_torchrun: bool,
    shown: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", rank)
    if by_torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with Progress("index", 3, "tars") as display:
        display.update(3)
        display.say("index: 1 sample has no caption")
    assert len(capsys.readouterr().err.splitlines()) == shown
