"""Files of one JSON object a line, appended to while a run goes on and cut back when it is continued."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clipkit import atomic
from clipkit.errors import TrainError

Line = dict[str, Any]


class JsonLines:
    """The lines of the file at `path`, which need not be there yet."""

    def __init__(self, path: Path):
        self._path = path

    def read(self) -> list[Line]:
        """Return the lines; what a kill tore off is no line."""
        if not self._path.exists():
            return []
        texts = self._path.read_text(encoding="utf-8", errors="replace").split("\n")
        return [line for text in texts if (line := _parsed(text)) is not None]

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line at the end, a number that is not finite as null. Raises TrainError if it cannot."""
        text = json.dumps({name: _finite(value) for name, value in line.items()}, ensure_ascii=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise TrainError(
                f"{self._path}: cannot be written, {error.strerror}: mend that and run the same command again"
            ) from error

    def keep(self, wanted: Callable[[Line], bool]) -> None:
        """Replace the file by its `wanted` lines."""
        lines = self.read()
        if lines or self._path.exists():
            kept = (json.dumps(line, ensure_ascii=False) + "\n" for line in lines if wanted(line))
            atomic.write_text(self._path, "".join(kept))

    def flush(self) -> None:
        """Force the file's bytes onto the disk."""
        if self._path.exists():
            atomic.flush(self._path)


def _parsed(text: str) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step", 0), int) else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
