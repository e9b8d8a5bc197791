import io
from typing import Any

import pytest

from clipkit.errors import tell


class Pipe(io.RawIOBase):
    """Takes bytes and remembers in which pieces they came."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.pieces.append(bytes(content))
        return len(content)


def test_a_line_is_one_write_where_nothing_is_buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe: Any = Pipe()
    monkeypatch.setattr(
        "sys.stderr", io.TextIOWrapper(pipe, write_through=True)
    )  # as with PYTHONUNBUFFERED=1
    tell("three words more")
    assert [piece for piece in pipe.pieces if piece] == [b"three words more\n"]


def test_a_line_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    tell("two\nlines \x1b[31m\x9b2J \u202egpj \udce9 \x7f")
    assert capsys.readouterr().err == "two lines \\x1b[31m\\x9b2J \\u202egpj \\udce9 \\x7f\n"
