"""Workers of a DataLoader that die, err or hang in whatever they do; the memory that they share."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from clipkit.errors import DatasetError
from clipkit.shards.loader_processes import watched
from tests.processes import living, until, with_shared_memory


@pytest.fixture(autouse=True)
def workers_import_this(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers get a function of this file by its name, and this process's list of folders to look in."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


class Made(Dataset[torch.Tensor]):
    """Batches that a function makes of a folder in which it may leave notes."""

    def __init__(self, make: Callable[[Path], torch.Tensor], notes: Path):
        self._make = make
        self._notes = notes

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> torch.Tensor:
        return self._make(self._notes)


def loader(make: Callable[[Path], torch.Tensor], notes: Path) -> Iterator[torch.Tensor]:
    made = Made(make, notes)
    return iter(DataLoader(made, batch_size=None, num_workers=1, multiprocessing_context="forkserver"))


def batches(make: Callable[[Path], torch.Tensor], notes: Path) -> Iterator[torch.Tensor]:
    return watched(lambda: loader(make, notes), DatasetError, "a worker")


def sound(notes: Path) -> torch.Tensor:
    return torch.zeros(3)


def killed(notes: Path) -> torch.Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return torch.zeros(3)


def lost(notes: Path) -> torch.Tensor:
    """At its third call the worker dies with a batch on its way, and its server is kept from noticing."""
    with (notes / "calls").open("a") as calls:
        calls.write("called\n")
        if calls.tell() >= 3 * len("called\n"):
            (notes / "processes").write_text(f"{os.getppid()} {os.getpid()}")
            os.kill(os.getppid(), signal.SIGSTOP)
            until((notes / "fetched").exists, "the first batch is fetched")
            os.kill(os.getpid(), signal.SIGKILL)
    return torch.zeros(3)


def wrong(notes: Path) -> torch.Tensor:
    raise RuntimeError("a mistake of ours")


def waiting(notes: Path) -> torch.Tensor:
    """At its second call the worker hears nothing more, as of a disk that does not answer."""
    if (notes / "called").exists():
        (notes / "waiting").touch()
        time.sleep(600)
    (notes / "called").touch()
    return torch.zeros(3)


def ended(notes: Path) -> torch.Tensor:
    os._exit(3)


def test_a_worker_that_ends_by_itself_does_not_lack_memory(tmp_path: Path) -> None:
    """Such is one that cannot import what it is to do, or a program that begins workers on being imported."""
    with pytest.raises(DatasetError, match=r"died, .*: it ended by itself: mend what it printed above"):
        list(batches(ended, tmp_path))


def test_a_killed_worker_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="a worker died, DataLoader worker") as caught:
        list(batches(killed, tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_worker_killed_while_its_batch_is_fetched_is_one_line(tmp_path: Path) -> None:
    made = batches(lost, tmp_path)
    next(made)
    noted = tmp_path / "processes"
    until(lambda: noted.exists() and noted.read_text(), "the third call")
    server, worker = map(int, noted.read_text().split())
    time.sleep(0.5)  # the second batch goes its way from another thread of the worker
    (tmp_path / "fetched").touch()
    with pytest.raises(DatasetError, match="died, the connection to it broke: make memory free"):
        try:
            until(lambda: worker not in living(os.getsid(0)), "the worker dies")
            next(made)
        finally:
            os.kill(server, signal.SIGCONT)


def nested(notes: Path) -> torch.Tensor:
    return next(batches(killed, notes))


def test_a_worker_begins_no_workers(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="that may begin others, found one that is itself a worker"):
        list(batches(nested, tmp_path))


ARGUMENTS = """
import sys
if "--given" not in sys.argv:
    sys.exit("expected arguments")
from tests.shards.functions import tokenize, transform as made

def transform(image, key):
    return made(image, key)
"""
PROGRAM = """
import sys
import arguments
from clipkit import ShardSet
from clipkit.shards.loader import batches
if __name__ == "__main__":
    made = {"transform": arguments.transform, "tokenize": arguments.tokenize}
    print(len(list(batches(ShardSet(sys.argv[1]), batch_size=10, stop=40, workers=1, **made))))
"""


@pytest.mark.slow
def test_a_module_that_wants_the_programs_arguments(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "arguments.py").write_text(ARGUMENTS)
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(tiny_dataset), "--given"]
    path = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    done = subprocess.run(command, env=os.environ | path, capture_output=True, text=True, check=False)
    assert done.stdout == "4\n", done.stderr


@pytest.mark.slow
def test_a_program_that_is_no_file(tiny_dataset: Path) -> None:
    program = f"""
from clipkit import ShardSet
from clipkit.model.preprocess import TrainTransform
from clipkit.model.tokenizer import Tokenizer
from clipkit.shards.loader import batches
if __name__ == "__main__":
    settings = dict(transform=TrainTransform(16), tokenize=Tokenizer(), workers=1)
    print(len(list(batches(ShardSet({str(tiny_dataset)!r}), batch_size=8, stop=16, **settings))), __file__)
"""
    command, folder = [sys.executable, "-"], Path(__file__).parents[2]
    done = subprocess.run(command, input=program, capture_output=True, text=True, cwd=folder, check=False)
    assert done.stdout == "2 <stdin>\n", done.stderr


def test_a_process_that_another_thread_begins_meanwhile_is_let_alone(tmp_path: Path) -> None:
    """Of two streams begun at once, the first to end killed the other's workers."""
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(120,))

    def begin() -> Iterator[torch.Tensor]:
        other.start()
        return loader(sound, tmp_path)

    try:
        assert len(list(watched(begin, DatasetError, "a worker"))) == 3
        other.join(0.5)
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


def test_a_mistake_in_a_worker_is_not_taken_for_its_death(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        list(batches(wrong, tmp_path))


def test_a_worker_that_hears_nothing_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DataLoader waits for one after the other."""
    monkeypatch.setattr("clipkit.shards.loader_processes._ENDING_SECONDS", 0.2)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 600)
    made = batches(waiting, tmp_path)
    next(made)
    until((tmp_path / "waiting").exists, "the second call")
    closing = threading.Thread(target=lambda: made.close(), daemon=True)  # type: ignore[attr-defined]
    closing.start()
    until(lambda: not closing.is_alive(), "the worker ends")


@pytest.mark.parametrize(
    ("size", "found"),
    [
        ("8k", "expected room for the workers' batches, found 8,192 of 8,192 bytes free"),
        ("64k,ro", "expected the memory that processes share, found: Read-only file system"),
        ("64k", ""),
        ("0", ""),
    ],
)
def test_shared_memory_without_room_for_the_workers_locks_is_named(size: str, found: str) -> None:
    """Size 0 is no limit. A DataLoader says `No space left on device`, and what it was shows a traceback."""
    program = """
from clipkit.errors import DatasetError
from clipkit.shards.loader_processes import check_sharing
try:
    check_sharing(DatasetError, 1)
except DatasetError as error:
    print(error, end="")
"""
    command = [*with_shared_memory(size), sys.executable, "-c", program]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"/dev/shm: {found}") if found else not said
