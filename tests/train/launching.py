"""Several processes on this machine, started by torchrun as users do."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def launched(processes: int, script: Path, *arguments: object) -> None:
    """Run `script` in so many processes, to its end; none of them may fail or warn."""
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={processes}",
        "--standalone",
    ]
    done = subprocess.run(
        [*launcher, script, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "UserWarning" not in done.stderr  # such as that of gradients laid out otherwise than weights
