"""`clipkit train` as users start it: alone, with a launcher before it, and what its run has written."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.processes import in_a_session

WORDS = "--model ViT-Micro/16@32px --workers 2 --log-every 1 --name run --lr 1e-3"
TORCHRUN = ("-m", "torch.distributed.run")
TWO = (*TORCHRUN, "--nproc-per-node=2", "--standalone")


@contextmanager
def training(
    dataset: Path, runs: Path, *words: str, before: Sequence[str] = (), launcher: Sequence[str] = ()
) -> Iterator["subprocess.Popen[str]"]:
    command = [*before, sys.executable, *launcher, "-m", "clipkit", "train", *WORDS.split(), *words]
    with in_a_session([*command, "--shards", dataset, "--runs", runs]) as process:
        yield process


def steps(runs: Path) -> int:
    metrics = runs / "run" / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def losses(runs: Path) -> list[tuple[int, float]]:
    lines = (runs / "run" / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]
