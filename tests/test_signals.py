"""Signals to the command that come while Python runs code of its own accord, where exceptions are lost."""

import subprocess
import sys

import pytest

PROGRAM = """
import signal, sys, time
from clipkit import cli

def dropped():
    try:
        yield
    finally:
        signal.raise_signal(int(sys.argv[1]))

def work(prog_name):
    rows = dropped()
    next(rows)
    del rows
    print("goes on", flush=True)
    time.sleep(60)

cli.app = work
cli.main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", -2), ("SIGTERM", 143)])
def test_a_signal_is_not_lost_at_the_end_of_a_generator(name: str, code: int) -> None:
    number = {"SIGINT": 2, "SIGTERM": 15}[name]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(number)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "goes on\n")
    assert "ignored" not in done.stderr


def test_what_else_is_lost_there_is_told_as_ever() -> None:
    program = PROGRAM.replace("signal.raise_signal(int(sys.argv[1]))", "raise ValueError(7)").replace(
        "60", "0"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "0"], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    assert "Exception ignored" in done.stderr and "ValueError: 7" in done.stderr
