"""One evaluation as a command of either side, told the same."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from evaluating.models import TEMPLATES, ModelFiles
from evaluating.pictures import LabelledSet
from stream.peers import side_python

from clipkit.evaluate.templates import templates_of

BUILD = Path(__file__).parent.parent.parent / "build" / "bench"
BATCH_SIZE, WORKERS = 64, 2
_PEERS = Path(__file__).with_name("peers.py")


class Given(NamedTuple):
    """A model, a labelled set and the files that one way of evaluating needs beside them (see peers.py)."""

    model: ModelFiles
    made: LabelledSet
    files: dict[str, Path] = {}  # noqa: RUF012 (of a NamedTuple: never changed)

    def specification(self) -> dict[str, Any]:
        """What peers.py reads."""
        return {
            "name": self.model.name,
            "config": str(self.model.config.absolute()),
            "checkpoint": str(self.model.checkpoint.absolute()),
            "folder": str(self.made.folder.absolute()),
            "names": self.made.names,
            "templates": list(templates_of(TEMPLATES)),
            "batch_size": BATCH_SIZE,
            "workers": WORKERS,
            **{name: str(path.absolute()) for name, path in self.files.items()},
        }


def clipkit_command(given: Given, *words: object) -> list[str]:
    """`clipkit evaluate` on the set."""
    return evaluate_command(
        given,
        *("--folder", given.made.folder, "--classes", given.made.classes, "--templates", TEMPLATES),
        *words,
    )


def evaluate_command(given: Given, *words: object) -> list[str]:
    """`clipkit evaluate` of the model."""
    settings = ("--checkpoint", given.model.checkpoint, "--batch-size", BATCH_SIZE, "--workers", WORKERS)
    words = ("--no-cache", *words)  # every run encodes the prompts, as the peers do
    return [str(word) for word in (sys.executable, "-m", "clipkit", "evaluate", *settings, *words)]


def peer_command(way: str, given: Given) -> list[str]:
    """One way of peers.py, in its environment."""
    python = side_python("zero_shot", BUILD)
    if python is None:
        raise SystemExit("the peers' packages cannot be installed")
    file = given.model.checkpoint.with_name("specification.json")
    file.write_text(json.dumps(given.specification()))
    return [str(word) for word in (python, _PEERS, way, file)]


def answer(command: list[str]) -> Any:
    """Run a command; return the JSON on its last line. Ends the program with what it printed if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])
