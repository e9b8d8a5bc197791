"""When a command first shows something on a terminal."""

import os
import pty
import re
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple

_COUNT = re.compile(rb"[1-9][\d,]*/[\d,]+ (prompts|images)")


class Seen(NamedTuple):
    """Seconds from the start to the progress display, to its first count above 0, and to the end."""

    display: float
    counted: float
    end: float


def first_count(command: Sequence[str]) -> Seen:
    """Run a command, its errors on a terminal. Ends the program if it fails or shows nothing."""
    ours, theirs = pty.openpty()
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=theirs, env=os.environ | {"TERM": "xterm"}
    )
    os.close(theirs)
    display = count = 0.0
    text = b""
    while True:
        try:
            some = os.read(ours, 65536)
        except OSError:  # Linux's end of file of a terminal that nobody holds
            break
        now = time.perf_counter() - begun
        text += some
        display = display or now
        if not count and _COUNT.search(text):
            count = now
    os.close(ours)
    status = process.wait()
    if status or not count:
        raise SystemExit(f"{' '.join(command)} ended with {status}:\n{text[-2000:].decode(errors='replace')}")
    return Seen(display, count, time.perf_counter() - begun)
