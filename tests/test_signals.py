"""Signals to the command that come while Python runs code of its own accord, where exceptions are lost."""

import subprocess
import sys

import pytest

PROGRAM = """
import signal, sys, time
from clipkit import cli

number, seconds = map(int, sys.argv[1:])

class Failing:
    def __del__(self):
        raise ValueError(7)

{dropped}

def work(prog_name):
    rows = dropped()
    next(rows)
    del rows
    print("goes on", flush=True)
    time.sleep(seconds)

cli.app = work
cli.main()
"""
SIGNALLED_AT_ITS_END = """
def dropped():
    try:
        yield
    finally:
        signal.raise_signal(number)
"""
SIGNALLED_BEFORE = """
def dropped():
    failing = Failing()
    yield signal.raise_signal(number)
"""
FAILING_AT_ITS_END = """
def dropped():
    failing = Failing()
    yield
"""
CODES = {"SIGINT": (2, -2), "SIGTERM": (15, 143)}


def run(dropped: str, number: int = 0, seconds: int = 0) -> tuple[int, str, str]:
    command = [sys.executable, "-c", PROGRAM.format(dropped=dropped), str(number), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("seconds", [60, 0], ids=["much is left", "nothing is left"])
@pytest.mark.parametrize("name", CODES)
def test_a_signal_is_not_lost_at_the_end_of_a_generator(name: str, seconds: int) -> None:
    number, expected = CODES[name]
    code, output, errors = run(SIGNALLED_AT_ITS_END, number, seconds)
    assert (code, output) == (expected, "goes on\n")
    assert "ignored" not in errors


def test_what_an_interrupted_object_says_at_its_end_is_not_told() -> None:
    assert run(SIGNALLED_BEFORE, 15) == (143, "", "")


def test_what_else_is_lost_there_is_told_as_ever() -> None:
    code, output, errors = run(FAILING_AT_ITS_END)
    assert (code, output) == (0, "goes on\n")
    assert "Exception ignored" in errors and "ValueError: 7" in errors


def test_a_library_that_ends_by_the_number_of_the_signal_has_its_status_mended() -> None:
    program = """
import signal, sys
from clipkit import cli
from clipkit.signals import own_signals

def work(prog_name):
    with own_signals():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as Ray does
        signal.raise_signal(signal.SIGTERM)

cli.app = work
cli.main()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (143, "")
