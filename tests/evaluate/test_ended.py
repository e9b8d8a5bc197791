"""`clipkit evaluate` that is ended within a set."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipkit.model.checkpoint import Checkpoint, save_checkpoint
from clipkit.model.clip import build
from clipkit.model.config import named_config
from tests.processes import in_a_session, wait_until_gone
from tests.serving import encoded, photo

MICRO = named_config("ViT-Micro/16@32px")
ENDLESS = 40_000
EARLIER = b'{"kind": "zero-shot", "set": "earlier"}\n'


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """An evaluation in the folder `tmp_path`."""
    dumped = MICRO.model_dump(mode="json")
    save_checkpoint(tmp_path / "micro.pt", Checkpoint(0, "micro", build(MICRO, seed=0).state_dict(), dumped))
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "picture").write_bytes(encoded(photo(60, 60, 1)))
    for number in range(ENDLESS):
        (tmp_path / "pets" / "cat" / f"{number:05}.jpg").symlink_to(tmp_path / "picture")
    (tmp_path / "classes.csv").write_text("folder,names\ncat,cat\n")
    (tmp_path / "results.jsonl").write_bytes(EARLIER)
    words = "--checkpoint micro.pt --folder pets --classes classes.csv --workers 2 --batch-size 4"
    return [sys.executable, "-m", "clipkit", "evaluate", *words.split()]


@pytest.fixture
def evaluation(tmp_path: Path, command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """An evaluation of ten thousand batches."""
    with in_a_session(command, tmp_path) as process:
        yield process


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_what_ends_a_command_within_a_set_leaves_the_results_as_they_were(
    evaluation: "subprocess.Popen[str]", tmp_path: Path, sent: signal.Signals
) -> None:
    assert evaluation.stderr is not None
    for line in evaluation.stderr:
        if line.startswith("pets: "):
            break
    evaluation.send_signal(sent)
    printed, errors = evaluation.communicate(timeout=60)
    quietly = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
    assert (evaluation.returncode, printed) == (quietly[sent], ""), errors
    assert "Traceback" not in errors
    wait_until_gone(evaluation.pid)
    assert (tmp_path / "results.jsonl").read_bytes() == EARLIER
