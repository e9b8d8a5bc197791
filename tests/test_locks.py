import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from clipkit.locks import Held, ThreadLock, exclusive

COUNT = """
import sys
from pathlib import Path
from clipkit.locks import exclusive
folder = Path(sys.argv[1])
for _ in range(200):
    with exclusive(folder / ".lock", wait=True):
        number = int((folder / "number").read_text())
        (folder / "number").write_text(str(number + 1))
"""


def test_processes_take_turns_and_leave_no_file(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    command = [sys.executable, "-c", COUNT, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "600"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


def waits_for_a_lock() -> bool:
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and str(os.getpid()) in line.split() for line in lines)


def test_a_thread_that_waits_for_a_process_does_not_keep_it_from_waiting_for_another_thread(
    tmp_path: Path,
) -> None:
    program = f"""
from pathlib import Path
from clipkit.locks import exclusive
with exclusive(Path({str(tmp_path / "its")!r}), wait=True):
    input("has its own")
    with exclusive(Path({str(tmp_path / "ours")!r}), wait=True):
        print("has both")
"""

    def wait() -> None:
        with exclusive(tmp_path / "its", wait=True):
            pass

    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        with exclusive(tmp_path / "ours"):
            assert process.stdout.read(len("has its own")) == "has its own"
            thread = threading.Thread(target=wait)
            thread.start()
            while not waits_for_a_lock():
                time.sleep(0.01)
            process.stdin.write("\n")
            process.stdin.flush()
            time.sleep(0.3)  # it asks for ours meanwhile
        assert process.stdout.read() == "has both\n"
        thread.join()
    assert process.returncode == 0


def test_who_does_not_wait_is_told(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from clipkit.locks import Held, exclusive
try:
    with exclusive(Path({str(tmp_path / ".lock")!r})):
        print("got it")
except Held:
    print("held")
"""
    command = [sys.executable, "-c", program]
    with exclusive(tmp_path / ".lock") as locked:
        assert locked
        held = subprocess.run(command, capture_output=True, text=True, check=True)
        assert held.stdout == "held\n"
    free = subprocess.run(command, capture_output=True, text=True, check=True)
    assert free.stdout == "got it\n"


def test_other_errors_are_not_a_lock_held(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), exclusive(tmp_path / "nowhere" / ".lock"):
        raise Held


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
@pytest.mark.parametrize("module", ["scratch", "stores", "downloads", "evaluate.pictures"])
def test_a_process_forked_meanwhile_waits_for_no_thread_of_its_parent(module: str) -> None:
    locks = vars(importlib.import_module(f"clipkit.{module}")).values()
    (lock,) = (each for each in locks if isinstance(each, ThreadLock))
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            inside.set()
            assert go_on.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(30)
        with lock:
            os._exit(0)
    go_on.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    with lock:
        pass


def test_a_process_forked_meanwhile_takes_no_lock_of_its_parent_with_it(tmp_path: Path) -> None:
    program = f"""
import os
import sys
from pathlib import Path
from clipkit.locks import exclusive
path = Path({str(tmp_path / ".lock")!r})
with exclusive(path):
    child = os.fork()
    if not child:
        sys.exit()
    os.waitpid(child, 0)
    print(path.exists())
print(path.exists())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\nFalse\n"
