"""Real processes: what lives of a session, and who sent a request."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest


def living(session: int) -> list[int]:
    """The processes of a session that are not zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(sid) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


def workers_of(process: int) -> list[int]:
    """The processes that the fork server of `process` made."""
    return [worker for server in children_of(process) for worker in children_of(server)]


def children_of(process: int) -> list[int]:
    """The processes that `process` itself started and has not waited for."""
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except FileNotFoundError:
        return []


@contextmanager
def in_a_session(
    command: Sequence[str | Path], folder: Path | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Run a command in a session of its own; at the end all that lives of it is killed, its children too."""
    with subprocess.Popen(
        command,
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            for pid in {*children_of(process.pid), *living(process.pid)}:
                os.kill(pid, signal.SIGKILL)


def with_shared_memory(size: str) -> list[str]:
    """The words before a command that let it have a /dev/shm of that size, 1m say."""
    words = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"',
        "-",
    ]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    return words


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.02)


def wait_until_gone(session: int, seconds: float = 60) -> None:
    until(lambda: not living(session), "all processes end", seconds)


def connections_to(port: int) -> int:
    """How many connections over loopback are open to this port, also those on which nothing is asked."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(line[1].endswith(f":{port:04X}") and line[3] == "01" for line in lines)


def client_of(request: BaseHTTPRequestHandler) -> int:
    """The process that sent a request over loopback, as the kernel's table of connections has it."""
    ends = [f":{port:04X}" for port in (request.client_address[1], request.connection.getsockname()[1])]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    (inode,) = {line[9] for line in lines if line[1].endswith(ends[0]) and line[2].endswith(ends[1])}
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(descriptor.readlink()) == f"socket:[{inode}]":
                return int(descriptor.parts[2])
        except OSError:
            continue
    raise AssertionError("the client is gone")
