"""A network that goes away for a while under a running command: run in a fresh network namespace.

    unshare --net python -m tests.ingest.losing_network DIRECTORY SECONDS

ingests from a server on loopback, takes loopback down in the middle, brings it up again after so many seconds
of silence, and prints how the command ended. Nothing leaves the namespace.
"""

import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.serving import Server, answer, encoded, photo

URLS = 1500
_SEEN_BEFORE = 200  # requests


def main(directory: Path, seconds: float) -> int:
    """Return the command's exit status."""
    _set_loopback("up")
    with Server().running() as server:
        picture = answer(encoded(photo()))
        urls = [server.add(f"/{number}", picture) for number in range(URLS)]
        (directory / "list.tsv").write_text("".join(f"a picture\t{url}\n" for url in urls))
        threading.Thread(target=_lose, args=(server, seconds), daemon=True).start()
        command = [sys.executable, "-m", "clipkit", "ingest", "cc", "list.tsv", "--out", "out"]
        options = ["--allow-private-hosts", "--timeout", "3", "--deadline", "20", "--workers", "1", "--json"]
        return subprocess.run([*command, *options], cwd=directory, check=False, timeout=100).returncode


def _lose(server: Server, seconds: float) -> None:
    while server.hits.total() < _SEEN_BEFORE:
        time.sleep(0.01)
    _set_loopback("down")
    time.sleep(seconds)
    _set_loopback("up")


def _set_loopback(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
