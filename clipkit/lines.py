"""Files of one JSON object a line that several processes append to, and that a continued run cuts back."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipkit import atomic
from clipkit.errors import ClipkitError
from clipkit.json_values import parsed_json
from clipkit.locations import decoded
from clipkit.locks import exclusive

Line = dict[str, Any]

_LOOKED_AT = 1 << 20  # bytes


class JsonLines:
    """The lines of the file at `path`, which need not be there yet.

    Writers take turns by a lock on a hidden file beside it, `.NAME.lock`: the file itself is replaced when it
    is cut back, and a lock on what was replaced would keep nobody out. What fails on disk raises `error`.
    """

    def __init__(self, path: Path, error: type[ClipkitError] = ClipkitError):
        self.path = path
        self._lock = path.with_name(f".{path.name}.lock")
        self._error = error

    def read(self) -> list[Line]:
        """Return the lines; what is no JSON object, as a kill leaves it, is no line."""
        return [line for text in self._texts() if (line := _parsed(text)) is not None]

    def check(self) -> None:
        """Raise `error` if a line cannot be added, or if the file is another kind of file.

        Better known before long work than after.
        """
        start = b""
        with self._writing():
            if self.path.exists():
                with self.path.open("r+b") as file:
                    start = file.read(_LOOKED_AT)
        texts = [text for text in start.split(b"\n") if text.strip(b" \t\r\0")]
        is_torn = len(texts) == 1 and texts[0].startswith(b"{")  # a first line that a kill left unfinished
        if texts and not is_torn and not any(map(_parsed, texts)):
            raise self._error(
                f"{self.path}: expected lines of JSON to add to, found something else: give another name"
            )

    def append(self, line: Mapping[str, Any], *, durable: bool = False) -> None:
        """Add one line in a single write, a number that is not finite as null; `durable` forces it to disk.

        What is no UTF-8 in the name of a file becomes U+FFFD.
        A last line that a kill left unfinished is cut off first, and a write that the disk did not take whole
        is taken back.
        """
        finite = {name: _finite(value) for name, value in line.items()}
        content = decoded(json.dumps(finite, ensure_ascii=False, allow_nan=False)).encode() + b"\n"
        with self._writing():
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                written = _append(descriptor, content)
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if written != len(content):
            raise self._error(
                f"{self.path}: the disk took only a part of a line; make room and run the same command again"
            )

    def keep(self, wanted: Callable[[Line], bool]) -> None:
        """Replace the file by its `wanted` lines; a line that another process appends meanwhile stays too."""
        if not self.path.exists():
            return
        with self._writing():
            kept = [text for text in self._texts() if (line := _parsed(text)) is not None and wanted(line)]
            with atomic.replaced(self.path) as temporary:
                temporary.write_bytes(b"".join(text + b"\n" for text in kept))

    def flush(self) -> None:
        """Force the file's bytes onto the disk."""
        if self.path.exists():
            atomic.flush(self.path)

    def _texts(self) -> list[bytes]:
        try:
            return self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._error(f"{self.path}: cannot be read, {error.strerror}") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with exclusive(self._lock, wait=True):
                yield
        except OSError as error:
            raise self._error(
                f"{self.path}: cannot be written, {error.strerror}: mend that and run the same command again"
            ) from error


def _append(descriptor: int, content: bytes) -> int:
    start = _end_of_lines(descriptor)
    written = -1
    try:
        written = os.write(descriptor, content)
    finally:
        if written != len(content):
            os.ftruncate(descriptor, start)
    return written


def _end_of_lines(descriptor: int) -> int:
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    content = os.pread(descriptor, size, 0)
    whole = content.rfind(b"\n") + 1
    if _parsed(content[whole:]) is not None:  # all there but the newline, as an editor may leave it
        return size + os.write(descriptor, b"\n")
    os.ftruncate(descriptor, whole)
    return whole


def _parsed(text: bytes) -> Line | None:
    try:
        line = parsed_json(text.decode())
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
