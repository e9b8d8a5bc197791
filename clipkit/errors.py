"""The exceptions for what a user can mend. The command line prints each as one line and exits with 1."""

import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

_LONGEST_FAULT = 300
# What steers a terminal or turns the direction of what follows, and what cannot be written as UTF-8.
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class ClipkitError(Exception):
    """Base of every expected failure: its text is one line with what was expected, found, and to do."""

    exit_code = 1


class SourceError(ClipkitError):
    """A list of URLs or a table of captions that cannot be read as one."""


class NetworkError(ClipkitError):
    """A name resolver, a network or a proxy that does not work."""


class DownloadError(ClipkitError):
    """A file of the web that cannot be fetched, or whose bytes are not those that were published."""


class EngineError(ClipkitError):
    """A cluster or a tool that the work was to run on, and that is missing, unfit or gone."""


class DatasetError(ClipkitError):
    """A dataset directory or shard that is missing, damaged, in use, or of another kind."""


class NoDatasetError(DatasetError):
    """A directory that is none of a dataset, or lacks the file that says what it holds."""


class StorageError(ClipkitError):
    """What is kept elsewhere cannot be had or written now; nothing is known of it."""


class ConfigError(ClipkitError):
    """Settings that do not fit each other or what they are applied to."""


class CheckpointError(ClipkitError):
    """A model file that is missing, damaged, hostile, or of another model."""


class TrainError(ClipkitError):
    """A training run that cannot start or go on."""


class EvaluationError(ClipkitError):
    """Pictures, class lists or results that an evaluation cannot use."""


def escaped(text: str) -> str:
    """Return a text as one line that steers no terminal: what would is seen as `\\x1b`, `\\n`, `\\u202e`.

    All that is printed goes through this, since strangers chose the names in it; twice changes nothing.
    """
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Return a message as `escaped` does, its lines in one."""
    return escaped(" ".join(text.splitlines()))


def escaped_json(text: str) -> str:
    """Return a JSON text that means the same and steers no terminal."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def first_fault(error: "ValidationError") -> str:
    """Return the first thing wrong with what was read, and where; cut short, since it may quote all of it."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    fault = f"{where}: {what}" if where else what
    return fault if len(fault) <= _LONGEST_FAULT else fault[: _LONGEST_FAULT - 1] + "…"


def install_extra(name: str) -> str:
    """Say how to install the extra `name`; the package index has another project of clipkit's name."""
    return f"pip install '.[{name}]' in a checkout of clipkit"


def tell(line: str) -> None:
    """Print a line on standard error in one write: lines of several processes do not mix, buffered or not."""
    print(f"{one_line(line)}\n", end="", file=sys.stderr, flush=True)
