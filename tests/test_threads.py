import subprocess
import sys

import pytest

FORKED_WHILE_ONE_IS_BUSY = """
import os, signal, sys, threading
from clipkit.threads import finished_before_the_end
begun, over = threading.Event(), threading.Event()
def work():
    with finished_before_the_end():
        begun.set()
        over.wait()
threading.Thread(target=work, daemon=True).start()
begun.wait()
child = os.fork()
if not child:
    signal.alarm(5)
    sys.exit(4)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
over.set()
"""

ENDED_WHILE_ANOTHER_IS_AT_IT = """
import atexit, sys, threading, time

begun, stopped, lasts, answered = (threading.Event() for _ in range(4))

def answer():
    answered.set()
    time.sleep(0.1)

atexit.register(answer)  # before those of clipkit, so that it is called behind them
import pyarrow as pa
from clipkit import threads
from clipkit.locations import each_of
from clipkit.remote_path import RemotePath

threads._AT_END_SECONDS = 1000

class AtTheEnd:
    def __del__(self, sleep=time.sleep):  # meanwhile Python ends daemons that come back to it
        sleep(0.5)

class Content(bytearray):
    def __del__(self, tell=lasts.set, sleep=time.sleep):
        tell()
        sleep(0.2)

sys.at_the_end = AtTheEnd()

def computing(thing):
    if thing:
        begun.set()
        stopped.wait()
        return pa.py_buffer(Content(b"x"))  # whose end lasts, in C++

def waiting(thing):
    def ask(transfer):
        lasts.set()
        answered.wait()
    if thing:
        begun.set()
        RemotePath("s3", "bucket/file")._tried("read it", ask)
        print("goes on")

results = each_of(vars()[sys.argv[1]], [0, 1], remote=True)
next(results)
begun.wait()
results.close()
stopped.set()
lasts.wait()
sys.exit(4)
"""


def test_a_forked_process_waits_for_no_thread_of_its_parents() -> None:
    command = [sys.executable, "-c", FORKED_WHILE_ONE_IS_BUSY]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("4\n", "", 0)


@pytest.mark.parametrize("what", ["computing", "waiting"])
def test_a_process_ends_as_itself_whatever_its_threads_are_at(what: str) -> None:
    command = [sys.executable, "-c", ENDED_WHILE_ANOTHER_IS_AT_IT, what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 4)
