"""`results.jsonl`: one line an evaluation, with what is needed to repeat it."""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit._version import VERSION
from clipkit.errors import EvaluationError
from clipkit.evaluate.classes import ClassSet
from clipkit.evaluate.images import LabelledImages

if TYPE_CHECKING:  # reading results, to plot them, needs no torch
    from clipkit.evaluate.zero_shot import ZeroShotResult

RESULTS_NAME = "results.jsonl"
CHECKPOINTS_FOLDER = "checkpoints"


def results_path(checkpoint: Path) -> Path:
    """Where a checkpoint's results belong: in its run's directory, or beside a file that is in no run."""
    folder = checkpoint.absolute().parent
    return (folder.parent if folder.name == CHECKPOINTS_FOLDER else folder) / RESULTS_NAME


def zero_shot_record(
    result: "ZeroShotResult", class_set: ClassSet, images: LabelledImages, model: dict[str, Any]
) -> dict[str, Any]:
    """One line of `results.jsonl`: `model` (what was evaluated), the set, versions, date, and the figures."""
    import torch

    return {
        "kind": "zero-shot",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "clipkit": VERSION,
        "torch": str(torch.__version__),
        **model,
        "set": result.name,
        "path": str(images.root.absolute()),
        "files_sha256": _files_sha256(images),
        "images": result.images,
        "unreadable": list(result.unreadable),
        "partial": result.partial,
        "classes": result.classes,
        "classes_with_images": result.classes_with_images,
        "names_sha256": class_set.names_sha256,
        "templates": len(class_set.templates),
        "templates_sha256": class_set.templates_sha256,
        "chance": result.chance,
        "top1": result.top1,
        "top1_interval": list(result.top1_interval),
        "top5": result.top5,
        "mean_per_class_recall": result.mean_per_class_recall,
    }


def check_appendable(path: Path) -> None:
    """Raise EvaluationError if a line cannot be added to `path`: better known before the work than after."""
    try:
        if path.exists():
            path.open("r+b").close()
        elif not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise EvaluationError(f"{path}: the result could not be written: {error.strerror}") from None


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add one JSON line to `path` in a single write, flushed to disk.

    A last line that a kill left unfinished is cut off first, and a write that the disk did not take whole is
    taken back. Raises EvaluationError when the file cannot be written.
    """
    line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    try:
        with _locked(path) as descriptor:
            start = _end_of_lines(descriptor)
            written = -1
            try:
                written = os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                if written != len(line):
                    os.ftruncate(descriptor, start)
    except OSError as error:
        raise EvaluationError(f"{path}: the result cannot be written: {error.strerror}") from None
    if written != len(line):
        raise EvaluationError(
            f"{path}: the disk took only a part of the result; make room and evaluate again"
        )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of `path`, one a line; a last line that a kill left unfinished is passed over.

    Raises EvaluationError, with the line, for a missing file and for any other line that is no JSON object.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror}") from None
    records = []
    for number, line in enumerate(lines, start=1):
        record = _parsed(line)
        if record is not None:
            records.append(record)
        elif number < len(lines):
            found = line[:40].decode(errors="replace")
            raise EvaluationError(f"{path} line {number}: expected a JSON object, found {found!r}")
    return records


def metric_name(set_name: str, figure: str) -> str:
    """What a figure of a set is called in a run's metrics, as in OpenCLIP: `imagenet-zeroshot-val-top1`."""
    return f"{set_name}-zeroshot-val-{figure}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_sha256(images: LabelledImages) -> str:
    digest = hashlib.sha256()
    for file, label in zip(images.paths, images.labels, strict=True):
        digest.update(os.fsencode(f"{label}\t{file.relative_to(images.root)}\n"))
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _end_of_lines(descriptor: int) -> int:
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    whole = content.rfind(b"\n") + 1
    if whole == len(content):
        return whole
    if _parsed(content[whole:]) is not None:  # all there but the newline, as an editor may leave it
        return len(content) + os.write(descriptor, b"\n")
    os.ftruncate(descriptor, whole)
    return whole


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
