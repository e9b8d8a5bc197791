"""How many CPUs there are to use, which is not how many the machine has."""

import os
from contextlib import suppress
from math import ceil
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")

MOST_WORKERS = 1024
"""More processes or threads than that were asked for by mistake."""


def available_cpus(cgroups: Path = _CGROUPS, own_group: Path = _OWN_GROUP) -> int:
    """Return how many CPUs this process may use: those it may run on, and no more than a container's share.

    The share is cpu.max of its control groups (version 2), as `docker run --cpus` and Kubernetes set it; a
    part of a CPU counts as one. Where the system knows neither, it is the machine's number.
    """
    may = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    group = ""
    with suppress(OSError, UnicodeDecodeError):
        lines = own_group.read_text().splitlines()
        group = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    for each in (cgroups / group, *(cgroups / group).parents):
        with suppress(OSError, ValueError):
            quota, period = (each / "cpu.max").read_text().split()
            may = min(may, max(1, ceil(int(quota) / int(period))))  # "max" is no number, and no limit
        if each == cgroups:
            break
    return may
