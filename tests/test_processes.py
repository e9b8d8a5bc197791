import subprocess
import sys

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
