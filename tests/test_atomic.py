"""A folder that is replaced is there, old or new, whatever happens in between."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clipkit.atomic import replaced_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from clipkit.atomic import replaced_folder

renamed = Path.rename
def rename(path, target):
    done = renamed(path, target)
    if path.name == "model":
        os.kill(os.getpid(), signal.SIGKILL)
    return done
Path.rename = rename
with replaced_folder(Path(sys.argv[1])) as folder:
    (folder / "weights").write_text("new")
"""


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(model)], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not model.exists()
    with pytest.raises(ValueError, match="no"), replaced_folder(model):
        raise ValueError("no")
    assert (model / "weights").read_text() == "old"
    with replaced_folder(model) as folder:
        (folder / "weights").write_text("new")
    assert (model / "weights").read_text() == "new"
    assert list(tmp_path.iterdir()) == [model]
