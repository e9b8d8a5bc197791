"""What a whole command costs, and what it cost between two of its log's lines."""

import os
import subprocess
import threading
import time
from bisect import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from stream.sides import cpu_seconds

_SAMPLE_SECONDS = 0.2
# Threads that wait do not spin, on both sides: clipkit sets it by itself, and spinning costs CPU time.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"}


class Costs(NamedTuple):
    """A command's wall time in seconds, the CPU seconds of all its processes as they grew, and its lines."""

    wall: float
    times: list[float]
    """seconds since 1970"""
    cpu: list[float]
    lines: list[tuple[float, str]]
    """what it printed, and when each line came, in seconds since 1970"""

    def first(self, words: str) -> float:
        """When the first line came that holds these words. Ends the program if none did."""
        for when, line in self.lines:
            if words in line:
                return when
        raise SystemExit(f"expected a line with {words!r}, found {[line for _, line in self.lines]}")

    def cpu_until(self, when: float) -> float:
        """CPU seconds spent until a moment within the command's life, between two looks by proportion."""
        after = min(max(bisect(self.times, when), 1), len(self.times) - 1)
        (begun, ended), (least, most) = (each[after - 1 : after + 1] for each in (self.times, self.cpu))
        return least + (most - least) * (when - begun) / (ended - begun)


def watched(command: Sequence[str], output: Path, *, nice: int = 0) -> Costs:
    """Run `command`, what it prints going to `output`. Ends the program with its last lines if it fails."""
    times, cpu = [time.time()], [0.0]
    lines: list[tuple[float, str]] = []
    begun = time.perf_counter()
    process = subprocess.Popen(
        ["nice", "-n", str(nice), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | _ENVIRONMENT,
    )
    ended = threading.Event()
    looking = threading.Thread(target=_look, args=(process.pid, ended, times, cpu))
    looking.start()
    try:
        with output.open("wb") as file:
            for line in process.stdout or ():
                file.write(line)
                lines.append((time.time(), line.decode(errors="replace").rstrip("\n")))
        process.wait()
    finally:
        process.kill()
        ended.set()
        looking.join()
    if process.returncode:
        text = output.read_text(errors="replace")
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{text[-2000:]}")
    return Costs(time.perf_counter() - begun, times, cpu, lines)


def _look(process: int, ended: threading.Event, times: list[float], cpu: list[float]) -> None:
    while not ended.wait(_SAMPLE_SECONDS):
        try:
            found = cpu_seconds(process)
        except OSError:  # one of its processes has just ended
            continue
        times.append(time.time())
        cpu.append(max(found, cpu[-1]))
