"""With this folder on PYTHONPATH, each process of a command lets its work on files be seen, or ends it.

FAULT, as JSON: at the `number`th call (from 1) of one of `calls` (functions of `os`, and `open`) with a path
that matches `path`, `before` it or after it, the `deed` is done: a signal to the process group, or FILL,
which writes the file named by FILLED until the disk is full. FAULT_LOG gets a line when it is done.

RECORD names a folder: it gets a line for each change of a folder, a list of what is in a folder when that is
forced onto the disk, and a copy of each file when that is; so what a power cut would leave can be told.
"""

import functools
import io
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from typing import Any, cast

CALLS = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "fsync")


def path_of(thing: Any, dir_fd: int | None = None) -> str:
    if isinstance(thing, int):
        return os.readlink(f"/proc/self/fd/{thing}")
    folder = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
    return os.path.join(folder, os.fsdecode(thing))


class Fault:
    def __init__(self, calls: list[str], path: str, number: int, before: bool, deed: str):
        self._calls = calls
        self._path = re.compile(path)
        self._left = number
        self._before = before
        self._deed = deed

    def around(self, call: str, path: str, *, before: bool) -> None:
        if call in self._calls and before is self._before and self._path.search(path):
            self._left -= 1
            if self._left == 0:
                with real_open(os.environ["FAULT_LOG"], "a") as log:
                    log.write(f"{'before' if before else 'after'} {call} {path}\n")
                fill(os.environ["FILLED"]) if self._deed == "FILL" else os.killpg(
                    0, signal.Signals[self._deed]
                )


def fill(path: str) -> None:
    disk = os.statvfs(os.path.dirname(path))
    with real_open(path, "wb") as blocker:
        blocker.write(bytes(disk.f_bavail * disk.f_frsize))


class Record:
    """What was so before a call is written down once the call is done."""

    def __init__(self, folder: str):
        self._folder = folder
        self._log = os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._held: list[int] = []  # so that no inode's number is used again

    def before(self, call: str, path: str, target: str) -> dict[str, Any]:
        line: dict[str, Any] = {"call": call, "path": path, "target": target}
        if call == "fsync" and os.path.isdir(path):
            self.after({"call": "scandir", "path": path})
            with os.scandir(path) as entries:
                line["entries"] = {each.name: [each.inode(), each.is_dir()] for each in entries}
        elif call == "fsync":
            self._hold(path)
            name = f"{os.getpid()}-{self._held[-1]}"
            shutil.copyfile(path, os.path.join(self._folder, name))
            line |= {"inode": os.stat(path).st_ino, "copy": name}
        elif call in ("replace", "rename"):
            self._hold(path)
            line["inode"] = os.stat(path).st_ino
        return line

    def after(self, line: dict[str, Any]) -> None:
        os.write(self._log, json.dumps(line).encode() + b"\n")

    def _hold(self, path: str) -> None:
        self._held.append(os.open(path, os.O_RDONLY))


def watched(call: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*words: Any, **named: Any) -> Any:
        path = path_of(words[0], named.get("dir_fd"))
        if fault:
            fault.around(call, path, before=True)
        target = path_of(words[1]) if call in ("replace", "rename") else ""
        line = record.before(call, path, target) if record and call != "open" else None
        result = function(*words, **named)
        if record and line:
            record.after(line)
        if fault:
            fault.around(call, path, before=False)
        return result

    return wrapper


real_open = io.open
fault = Fault(**json.loads(os.environ["FAULT"])) if "FAULT" in os.environ else None
record = Record(os.environ["RECORD"]) if "RECORD" in os.environ else None
if fault or record:
    for name in CALLS:
        setattr(os, name, watched(name, getattr(os, name)))
    io.open = cast(Any, watched("open", io.open))
