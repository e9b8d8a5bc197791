"""The progress display, on standard error: a live bar on a terminal, else a plain line now and then."""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from clipkit.errors import one_line, tell

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

PLAIN_SECONDS = 5.0
_WIDEST_BAR = 40


_silent = threading.Event()


def speaks() -> bool:
    """Tell whether this process speaks to the user: torchrun starts a command several times, and one does.

    RANK alone tells nothing: it is set in a cluster's job for commands of one process, too.
    """
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    return not _silent.is_set() and not (by_torchrun and os.environ.get("RANK", "0") != "0")


def be_silent() -> None:
    """Speak no more: this process has joined others, of which another one speaks."""
    _silent.set()


class Progress:
    """Shows how far a piece of work is: `with Progress("ingest", total=1000, unit="URLs") as progress: …`.

    `total` may be None while it is not known. On a terminal it is a live bar with the note below; elsewhere a
    line at most every five seconds, and one at the end: of JSON if there are figures, else of plain text. The
    time to go is that at the pace since the first update: what was done before that tells nothing of it.
    In a process that does not speak to the user nothing is shown.
    """

    def __init__(self, title: str, total: int | None, unit: str):
        self._title = one_line(title)
        self._total = total
        self._unit = unit
        self._done = 0
        self._note = ""
        self._figures: Mapping[str, Any] | None = None
        self._shown = -1
        self._printed = self._started = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._end: float | None = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if speaks() and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                get_renderable=self._picture,
                console=Console(stderr=True),
                refresh_per_second=10,
                transient=True,
            )
            self._live.start()
        return self

    def expect(self, total: int) -> None:
        """Tell how many units there are in all, when that becomes known."""
        self._total = total

    def update(self, done: int, note: str = "", figures: Mapping[str, Any] | None = None) -> None:
        """Show that `done` units are done in all, with a short note beside them.

        `figures` say the same as the note for a machine to read: plain JSON values, by name.
        """
        now = time.monotonic()
        self._done, self._note, self._figures = done, one_line(note), figures
        self._first = begun, before = self._first or (now, done)
        if self._total is not None and done > before:
            self._end = now + (self._total - done) * (now - begun) / (done - before)
        if self._live is None and now - self._printed >= PLAIN_SECONDS:
            self._print()

    def say(self, line: str) -> None:
        """Print a line that stays, above the bar."""
        if not speaks():
            return
        if self._live is not None:
            self._live.console.print(one_line(line), markup=False, highlight=False, emoji=False)
        else:
            tell(line)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if self._shown != self._done:
            self._print()

    def _picture(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Column, Table
        from rich.text import Text

        # Where there is not room enough, the bar and a long title give way; the figures do not.
        columns = Column(), Column(max_width=_WIDEST_BAR), Column(no_wrap=True), Column(no_wrap=True)
        line = Table.grid(*columns, padding=(0, 1))
        line.add_row(
            Text(self._title, no_wrap=True, overflow="ellipsis"),
            ProgressBar(self._total, self._done, pulse=self._total is None),
            f"{self._done:,}{'' if self._total is None else f'/{self._total:,}'} {self._unit}",
            self._to_go(),
        )
        if not self._note:
            return line
        return Group(line, Text(self._note, style="dim", no_wrap=True, overflow="ellipsis"))

    def _to_go(self) -> str:
        if self._end is None:
            return ""
        minutes, seconds = divmod(max(0, round(self._end - time.monotonic())), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours:,}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        return f"{clock} to go"

    def _print(self) -> None:
        self._printed = time.monotonic()
        self._shown = self._done
        seconds = self._printed - self._started
        if self._figures is not None and self._live is None:
            counts = {"done": self._done, "total": self._total, "seconds": round(seconds, 1)}
            self.say(json.dumps({"stage": self._title} | counts | dict(self._figures)))
            return
        total = "" if self._total is None else f" of {self._total:,}"
        to_go = f", {self._to_go()}" if self._end is not None and self._done != self._total else ""
        note = f"  {self._note}" if self._note else ""
        self.say(f"{self._title}: {self._done:,}{total} {self._unit} in {seconds:,.0f} s{to_go}{note}")
