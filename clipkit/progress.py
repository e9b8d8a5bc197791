"""The progress display, on standard error: a live bar on a terminal, else a plain line now and then."""

import json
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PLAIN_SECONDS = 5.0


class Progress:
    """Shows how far a piece of work is: `with Progress("ingest", total=1000, unit="URLs") as progress: …`.

    `total` may be None while it is not known. On a terminal it is a Rich bar; elsewhere a line at most every
    five seconds, and one at the end: of JSON if there are figures, else of plain text.
    """

    def __init__(self, title: str, total: int | None, unit: str):
        self._title = title
        self._total = total
        self._unit = unit
        self._done = 0
        self._note = ""
        self._figures: Mapping[str, Any] | None = None
        self._shown = -1
        self._printed = self._started = time.monotonic()
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self._unit),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task(self._title, total=self._total, note="")
            self._bar.start()
        return self

    def update(self, done: int, note: str = "", figures: Mapping[str, Any] | None = None) -> None:
        """Show that `done` units are done in all, with a short note beside them.

        `figures` say the same as the note for a machine to read: plain JSON values, by name.
        """
        self._done, self._note, self._figures = done, note, figures
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, note=note)
        elif time.monotonic() - self._printed >= PLAIN_SECONDS:
            self._print()

    def say(self, line: str) -> None:
        """Print a line that stays, above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._shown != self._done:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        self._shown = self._done
        seconds = self._printed - self._started
        if self._figures is not None and self._bar is None:
            counts = {"done": self._done, "total": self._total, "seconds": round(seconds, 1)}
            self.say(json.dumps({"stage": self._title} | counts | dict(self._figures)))
            return
        total = "" if self._total is None else f" of {self._total:,}"
        note = f"  {self._note}" if self._note else ""
        self.say(f"{self._title}: {self._done:,}{total} {self._unit} in {seconds:,.0f} s{note}")
