"""What lives and dies: a process started with `start_new_session=True`, and all that it starts."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path


def living(session: int) -> list[int]:
    """The processes of a session that run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append(int(stat.parent.name))
    return found


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"not in 60 s: {what}"
        time.sleep(0.02)


def wait_until_gone(session: int) -> None:
    until(lambda: not living(session), "all processes end")
