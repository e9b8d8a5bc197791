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
    """A command's wall time in seconds, and its CPU seconds as they grew, all its processes together."""

    wall: float
    times: list[float]
    """seconds since 1970"""
    cpu: list[float]

    def cpu_until(self, when: float) -> float:
        """CPU seconds spent until a moment within the command's life, between two looks by proportion."""
        after = min(max(bisect(self.times, when), 1), len(self.times) - 1)
        (begun, ended), (least, most) = (each[after - 1 : after + 1] for each in (self.times, self.cpu))
        return least + (most - least) * (when - begun) / (ended - begun)


def watched(command: Sequence[str], output: Path, *, nice: int = 0) -> Costs:
    """Run `command`, what it prints going to `output`. Ends the program with its last lines if it fails."""
    times, cpu = [time.time()], [0.0]
    begun = time.perf_counter()
    with output.open("wb") as stream:
        words = ["nice", "-n", str(nice), *command]
        process = subprocess.Popen(words, stdout=stream, stderr=stream, env=os.environ | _ENVIRONMENT)
    ended = threading.Event()
    looking = threading.Thread(target=_look, args=(process.pid, ended, times, cpu))
    looking.start()
    try:
        process.wait()
    finally:
        process.kill()
        ended.set()
        looking.join()
    if process.returncode:
        text = output.read_text(errors="replace")
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{text[-2000:]}")
    return Costs(time.perf_counter() - begun, times, cpu)


def _look(process: int, ended: threading.Event, times: list[float], cpu: list[float]) -> None:
    while not ended.wait(_SAMPLE_SECONDS):
        try:
            found = cpu_seconds(process)
        except OSError:  # one of its processes has just ended
            continue
        times.append(time.time())
        cpu.append(max(found, cpu[-1]))
