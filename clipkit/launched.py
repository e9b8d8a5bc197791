"""A process that a launcher started, torchrun's or clipkit's own: one of several with the same command."""

import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from clipkit.errors import ConfigError, tell

LAUNCHER = "CLIPKIT_LAUNCHER"
"""The environment variable in which a command hands its process number to the processes it starts."""

TIMEOUT = 600.0  # seconds; no process has work that takes it so much longer than the others

_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where torchrun's agent looks for what ended a process
_LOOK_SECONDS = 0.5
_TELLING = threading.Lock()  # never let go of: it is told once


def is_launched() -> bool:
    """Whether a launcher has started this process as one of several, or of one."""
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def refuse_several(command: str) -> None:
    """Raise ConfigError for a command of one process that a launcher has started several of."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ConfigError(f"{command} runs in one process, found {processes}: start it without torchrun")


def fail(line: str, kind: str, code: int) -> None:
    """Tell the user why this process ends: `line` once, though several may end for one reason.

    torchrun's agent is given the line with the `kind` of error and the exit `code`. clipkit's launcher shows
    one of those that it has got; beside torchrun, which shows them all below, the first process of each
    machine prints its own.
    """
    recorded = is_launched() and _recorded(line, kind, code)
    if LAUNCHER in os.environ and os.getppid() != int(os.environ[LAUNCHER]):
        _tell_that_it_is_gone()  # nobody else shows any line; another process has ended for that before
        return
    if recorded and (LAUNCHER in os.environ or os.environ.get("LOCAL_RANK") != "0"):
        return
    tell(line)


def _recorded(line: str, kind: str, code: int) -> bool:
    path = os.environ.get(_ERROR_FILE)
    if not path:
        return False
    now = time.time()
    more = {"timestamp": str(int(now)), "py_callstack": line, "time": now, "kind": kind, "code": code}
    temporary = Path(f"{path}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps({"message": {"message": line, "extraInfo": more}}))
        temporary.replace(path)
    except OSError:
        return False
    return True


def end_with_launcher() -> None:
    """End this process at once when the launcher that started it is gone, however that one went.

    Nothing else would: torchrun's processes are in sessions of their own, and go on without it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # whoever set RANK by hand need not stay
        return
    launcher = int(os.environ.get(LAUNCHER, os.getppid()))
    threading.Thread(target=_end_after, args=(launcher,), daemon=True).start()


def _end_after(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_LOOK_SECONDS)
    with suppress(OSError):
        _tell_that_it_is_gone()
    os._exit(1)


def _tell_that_it_is_gone() -> None:
    if os.environ.get("LOCAL_RANK") == "0" and _TELLING.acquire(blocking=False):
        tell("clipkit: what started this process is gone, so it ends: run the same command again")
