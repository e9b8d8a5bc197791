import subprocess
import sys

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


def test_a_forked_process_waits_for_no_thread_of_its_parents() -> None:
    command = [sys.executable, "-c", FORKED_WHILE_ONE_IS_BUSY]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("4\n", "", 0)
