"""A process that ends while its threads decode."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import encoded, photo

ROOT = Path(__file__).parent.parent.parent

ENDING_EARLY = """
import sys
from pathlib import Path
from clipkit.evaluate.decode import decoded_batches
from clipkit.model.preprocess import EvalTransform
from tests.evaluate.listed import listed
made = decoded_batches(listed([Path(sys.argv[1])] * 1000), EvalTransform(224), batch_size=8, workers=4)
next(made)
made.close()
sys.exit(3)
"""


@pytest.mark.slow
def test_the_end_waits_for_decoders_of_c_that_would_abort_it(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(encoded(photo(1200, 900, 1)))
    command = [sys.executable, "-c", ENDING_EARLY, str(tmp_path / "picture")]
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert (done.returncode, done.stderr) == (3, "")
