"""What a command costs, with all processes that descend from it, those that it leaves behind included.

The command runs under this same file as a program of its own, which takes orphans in and waits for them.
"""

import ctypes
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_SET_CHILD_SUBREAPER = 36  # prctl(2)
_SAMPLE_SECONDS = 0.1
_FIELD = re.compile(r"^(Pss|Private_Clean|Private_Dirty):\s+(\d+) kB", re.MULTILINE)


class Cost(NamedTuple):
    """Seconds of wall time and of CPU (user and system), and bytes at the peak, 0 if not asked for.

    Bytes are the largest sum over all processes, sampled ten times a second: `proportional` shares each page
    among those that map it, `private` leaves shared pages out. `status` is the command's exit status.
    """

    status: int
    wall: float
    cpu: float
    proportional: int
    private: int


def measured(
    command: Sequence[str | Path], output: Path, *, memory: bool = False, seconds: float | None = None
) -> Cost:
    """Run `command`, what it prints going to `output`; Ctrl-C is sent to it after `seconds`, if given."""
    report, report_end = os.pipe()
    words = [str(word) for word in (report_end, int(memory), seconds or 0, *command)]
    with output.open("wb") as stream:
        program = [sys.executable, __file__, *words]
        with subprocess.Popen(program, stdout=stream, stderr=stream, pass_fds=[report_end]):
            os.close(report_end)
            with open(report) as lines:  # noqa: PTH123 (a descriptor)
                return Cost(**json.loads(lines.read()))


def _main(report_end: int, memory: bool, seconds: float, command: list[str]) -> None:
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    begun = time.perf_counter()
    peak = (0, 0)
    with subprocess.Popen(command) as process:
        until = begun + seconds if seconds else float("inf")
        while process.poll() is None:
            if time.perf_counter() > until:
                process.send_signal(signal.SIGINT)
                until = float("inf")
            if memory:
                found = _memory(os.getpid())
                peak = (max(peak[0], found[0]), max(peak[1], found[1]))
                time.sleep(_SAMPLE_SECONDS)
            elif until == float("inf"):
                process.wait()
            else:
                time.sleep(_SAMPLE_SECONDS)
        wall = time.perf_counter() - begun
    _wait_for_orphans()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = Cost(process.returncode, wall, used.ru_utime + used.ru_stime, *peak)
    os.write(report_end, json.dumps(cost._asdict()).encode())


def _wait_for_orphans() -> None:
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return


def _memory(ancestor: int) -> tuple[int, int]:
    proportional = private = 0
    for process in _descendants(ancestor):
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:  # it has just ended
            continue
        sizes = {name: int(kilobytes) * 1024 for name, kilobytes in _FIELD.findall(text)}
        proportional += sizes.get("Pss", 0)
        private += sizes.get("Private_Clean", 0) + sizes.get("Private_Dirty", 0)
    return proportional, private


def _descendants(process: int) -> Iterator[int]:
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
        children = [int(child) for each in threads for child in (each / "children").read_text().split()]
    except OSError:
        return
    for child in children:
        yield child
        yield from _descendants(child)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2] == "1", float(sys.argv[3]), sys.argv[4:])
