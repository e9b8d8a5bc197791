import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import pytest

from clipkit.processes import deaf_to_interrupts
from tests.processes import living, wait_until_gone

ROOT = Path(__file__).parent.parent
PARENT = """
import multiprocessing, sys, time
from clipkit.processes import deaf_to_interrupts, end_with_parent

def work(ready):
    end_with_parent()
    ready.put(None)
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    ready = context.SimpleQueue()
    with deaf_to_interrupts():
        for _ in range(2):
            context.Process(target=work, args=(ready,)).start()
    for _ in range(2):
        ready.get()
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_end_with_a_parent_that_is_killed_and_leave_nothing(tmp_path: Path, method: str) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, "parent.py", method]
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        try:
            assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
            assert len(living(parent.pid)) >= 3
            parent.kill()
            parent.wait()
            wait_until_gone(parent.pid)
        finally:
            for pid in living(parent.pid):
                os.kill(pid, signal.SIGKILL)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_worker_that_its_parent_has_lost_leaves_the_parents_folder(tmp_path: Path, method: str) -> None:
    """So it is with one whose fork server was killed: it ends, and the parent begins others."""
    program = PARENT.partition('    print("ready"')[0]
    (tmp_path / "parent.py").write_text(
        f"""{program}
    from multiprocessing.util import get_temp_dir
    from pathlib import Path
    import os
    from tests.processes import living, until
    alone = multiprocessing.active_children()
    for each in alone:
        each._popen.finalizer()
    gone = {{each.pid for each in alone}}
    until(lambda: not gone & set(living(os.getsid(0))), "the workers end")
    print(len(gone), Path(get_temp_dir()).is_dir())
    os._exit(0)
"""
    )
    command = [sys.executable, "parent.py", method]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stdout == "2 True\n", done.stderr


MANY_PICTURES = """
import resource, sys
import numpy as np
from clipkit.processes import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def three():
    return [np.ones(5_000_000, np.uint8) for _ in range(3)]

three()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    three()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    ran = subprocess.run([sys.executable, "-c", MANY_PICTURES, how], capture_output=True, check=True)
    return int(ran.stdout)


def test_freed_memory_is_kept_for_the_next_picture() -> None:
    assert page_faults("keep") * 10 < page_faults("give back")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_acted_upon_when_the_workers_have_started(number: signal.Signals) -> None:
    def act(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, act)
    ending, started = threading.Event(), False
    other = threading.Thread(target=ending.wait)  # it takes the signal that the main thread has blocked
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt), deaf_to_interrupts():
            os.kill(os.getpid(), number)
            time.sleep(0.1)
            started = True
        assert started and signal.getsignal(number) is act
    finally:
        ending.set()
        other.join()
        signal.signal(number, before)


def test_workers_are_deaf_to_signals_meant_for_their_parent() -> None:
    show = "import signal; print(*signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with deaf_to_interrupts():
        ran = subprocess.run([sys.executable, "-S", "-c", show], capture_output=True, text=True, check=True)
    assert {int(each) for each in ran.stdout.split()} >= {signal.SIGINT, signal.SIGUSR1}
    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_workers_start_whatever_the_name_of_the_temporary_folder(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    program = tmp_path / "program.py"
    program.write_text(FORK_SERVER)
    environment = os.environ | {"TMPDIR": str(folder)}
    ran = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == (f"{folder} 0\n", "")
    assert list(folder.iterdir()) == []


FORK_SERVER = """
import multiprocessing, os, tempfile
from clipkit.processes import deaf_to_interrupts

if __name__ == "__main__":
    worker = multiprocessing.get_context("forkserver").Process(target=os.getpid)
    with deaf_to_interrupts():
        worker.start()
    worker.join()
    print(tempfile.gettempdir(), worker.exitcode)
"""


def test_who_ignores_a_signal_goes_on_doing_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deaf_to_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


MEMORY = """
import resource
from clipkit.processes import at_most_more_memory

def taken(limit):
    try:
        with at_most_more_memory(limit):
            return len(bytearray(100_000_000))
    except MemoryError:
        return 0

before = resource.getrlimit(resource.RLIMIT_DATA)
print(taken(50_000_000), taken(200_000_000), resource.getrlimit(resource.RLIMIT_DATA) == before)
"""


def test_more_memory_than_that_is_refused_and_only_meanwhile() -> None:
    # In a process of its own: one that ran other tests has free memory already, which is not refused.
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "100000000", "True"]


LIMITED = """
import multiprocessing, resource, sys, threading
from clipkit.processes import at_most_more_memory, deaf_to_interrupts

def limited(inside):
    with at_most_more_memory(50_000_000):
        inside.set()
        threading.Event().wait(0.5)

def tell(told):
    with at_most_more_memory(10**9):
        pass
    told.put(resource.getrlimit(resource.RLIMIT_DATA))

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    before, inside, told = resource.getrlimit(resource.RLIMIT_DATA), threading.Event(), context.SimpleQueue()
    threading.Thread(target=limited, args=(inside,)).start()
    inside.wait()
    process = context.Process(target=tell, args=(told,))
    if sys.argv[1] == "fork":
        process.start()
    else:
        with deaf_to_interrupts():
            process.start()
    process.join(20)
    print(process.exitcode == 0 and told.get() == before)
    process.kill()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_that_starts_while_a_thread_has_little_memory_is_not_limited(
    method: str, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(LIMITED)
    command = [sys.executable, str(tmp_path / "program.py"), method]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n", done.stderr


def test_peak_memory_is_this_processs_own_and_stays() -> None:
    """Also where a larger process started it, whose peak getrusage would give."""
    program = """
import subprocess, sys
from clipkit.processes import peak_memory
first = peak_memory()
held = b"x" * 300_000_000
del held
print(first, peak_memory())
if len(sys.argv) == 1:
    subprocess.run([sys.executable, "-c", sys.orig_argv[2], "child"], check=True)
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rows = [list(map(int, line.split())) for line in sorted(printed.stdout.splitlines())]
    assert len(rows) == 2
    for first, last in rows:
        assert 1_000_000 < first < 200_000_000 and 300_000_000 < last < 500_000_000
