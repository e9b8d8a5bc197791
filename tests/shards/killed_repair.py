"""Repairs that are killed, each STEP moments later than the last, from one process that has imported all.

    python -m tests.shards.killed_repair DATASET FOLDER STEP

Each is done to a copy of DATASET in FOLDER, and then finished by another one. Prints a line of JSON for each:
what of `.repair` the kill left, and whether all files came out as from a repair that nobody disturbed; for
the last one, which met its end before its moment, only the latter.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from clipkit.shards.repair import repair
from tests.datasets import contents
from tests.faults import sitecustomize
from tests.faults.sitecustomize import CALLS, Fault, watched


def killed(directory: Path, moment: int) -> bool:
    """Repair in a process of its own that is killed at its moment; tell whether it was."""
    child = os.fork()
    if not child:
        os.setsid()
        sitecustomize.fault = Fault([*CALLS], "/", moment, True, "SIGKILL")
        for name in CALLS:
            setattr(os, name, watched(name, getattr(os, name)))
        repair(directory)
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


def main() -> None:
    dataset, folder, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    os.environ["FAULT_LOG"], os.environ["FILLED"] = os.devnull, os.devnull
    copy, reference = folder / "copy", shutil.copytree(dataset, folder / "reference")
    repair(reference)
    expected = contents(reference)
    moment, dead = 0, True
    while dead:
        moment += step
        shutil.copytree(dataset, copy)
        dead = killed(copy, moment)
        left = [name for name in contents(copy) if name.startswith(".repair")] if dead else None
        if dead:
            repair(copy)
        print(json.dumps({"left": left, "as_expected": contents(copy) == expected}), flush=True)
        shutil.rmtree(copy)


if __name__ == "__main__":
    main()
