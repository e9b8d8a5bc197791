"""A headless Chromium, spoken to over a pair of pipes: what a page asks for, logs and looks like."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
]  # fmt: skip
Message = dict[str, Any]


class Page:
    """One page of the browser; `events` are what it reported, each with its `method` and `params`."""

    def __init__(self, commands: int, reports: int):
        self._commands = commands
        self._reports = reports
        self._received = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[Message] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Message:
        """Call a method of the protocol; return its result."""
        self._number += 1
        number, message = self._number, {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: Message = answer["result"]
                return result

    def open(self, path: Path, width: int, height: int, *, dark: bool = False) -> None:
        """Open a file in a window of this many pixels, and wait until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive()

    def value(self, expression: str) -> Any:
        """Evaluate an expression in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self, path: Path) -> None:
        """Write a picture of the whole page as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def reported(self, *methods: str) -> list[Message]:
        """Return what was reported by these methods since the page was opened."""
        return [event["params"] for event in self.events if event["method"] in methods]

    def _receive(self) -> Message:
        while b"\0" not in self._received:
            received = os.read(self._reports, 1 << 20)
            assert received, "the browser is gone"
            self._received += received
        text, _, self._received = self._received.partition(b"\0")
        message: Message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Start a browser with a new profile; fails where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "no chromium here: apt-get install chromium"
    theirs_in, commands = os.pipe()
    reports, theirs_out = os.pipe()
    # The browser reads commands from descriptor 3 and writes to 4.
    start = f'exec 3<&{theirs_in} 4>&{theirs_out} && exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", start, "bash", program, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(theirs_in, theirs_out),
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(commands, reports)
    finally:
        process.kill()
        process.wait()
        os.close(commands)
        os.close(reports)
