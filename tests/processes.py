"""Real processes: what lives of a session, and who sent a request."""

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path


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


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.02)


def wait_until_gone(session: int, seconds: float = 60) -> None:
    until(lambda: not living(session), "all processes end", seconds)


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
