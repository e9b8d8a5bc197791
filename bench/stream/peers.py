"""The sides' interpreters: peers whose versions clash with ours get an environment of their own."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any, NamedTuple

_SCRIPT = Path(__file__).with_name("sides.py")
# Newer releases of webdataset end OpenCLIP 3.3.0's loader in KeyError 'fname'.
# Newer ones of numpy end its zero-shot evaluation, and CLIP_benchmark's, in a TypeError.
_NEEDS = {
    "open_clip": ("webdataset==0.2.86", "pandas"),
    "streaming": ("mosaicml-streaming",),
    "zero_shot": ("clip-benchmark==1.6.2", "numpy<2.4", "pandas"),
}


class Cost(NamedTuple):
    """What so many samples took: seconds of wall time, and of CPU over all the side's processes."""

    samples: int
    wall: float
    cpu: float


def side_python(side: str, build: Path) -> Path | None:
    """Return the Python that `side` runs in, made in `build` if it is not there; None if that fails.

    It sees the packages of the running environment behind its own, so that torch is not installed again.
    """
    if side not in _NEEDS:
        return Path(sys.executable)
    folder = build / side
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        venv.create(folder, clear=True)
        own = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        )
        (Path(own.stdout.strip()) / "shared.pth").write_text(sysconfig.get_path("purelib"))
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *_NEEDS[side]]
        if subprocess.run(pip, check=False).returncode:
            return None
        (folder / "made").touch()
    return python


def said(*words: object) -> Any:
    """Run `endless.py` with these words; return what it prints. It may end the program, as `measured`."""
    command = [sys.executable, str(_SCRIPT.with_name("endless.py")), *map(str, words)]
    paths = [str(_SCRIPT.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def measured(python: Path, side: str, dataset: Path, batches: int) -> Cost:
    """Run one side. Ends the program with what it printed if it fails."""
    command = [str(word) for word in (python, _SCRIPT, side, dataset, batches)]
    quiet = os.environ | {"PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} ended with exit status {done.returncode}:\n{done.stderr[-2000:]}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))
