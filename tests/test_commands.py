"""Results as they are printed: what strangers wrote in them steers no terminal, and loses nothing as JSON."""

import json
from typing import Any

import pytest

from clipkit.commands import show
from clipkit.shards.faults import Fault
from clipkit.tables import table

HOSTILE = "a\x1b[2Kb\x07\x7f\x9b31m\u202egpj\u2066\u200f\u2028\udce9\r\n\tc [red]x[/red] :smile: 猫"
SEEN = "a\\x1b[2Kb\\x07\\x7f\\x9b31m\\u202egpj\\u2066\\u200f\\u2028\\udce9\\r\\n\\tc [red]x[/red] :smile: 猫"


class Result:
    def as_json(self) -> dict[str, Any]:
        return {"name": HOSTILE}

    def lines(self) -> str:
        fault = Fault("header", "000000.tar", "expected a name", HOSTILE).line()
        return f"{table([(HOSTILE, 1)], ('name', 'count'))}\n{fault}\nraw \x1b[2J\u202e"


def test_lines_show_what_would_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show(Result(), as_json=False)
    header, rule, row, fault, raw = capsys.readouterr().out.removesuffix("\n").split("\n")
    assert row == f"{SEEN}      1" and len(row) == len(rule) == len(header)
    assert fault == f"000000.tar, {SEEN}: expected a name"
    assert raw == "raw \\x1b[2J\\u202e"


def test_json_steers_no_terminal_either_and_means_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    show(Result(), as_json=True)
    (line,) = capsys.readouterr().out.removesuffix("\n").split("\n")
    assert line.isprintable() and "猫" in line
    assert json.loads(line) == {"name": HOSTILE}
