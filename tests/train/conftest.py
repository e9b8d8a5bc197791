import runpy
from pathlib import Path

import pytest

from tests.threads import one_thread as one_thread
from tests.train.launching import launched

RANKS = Path(__file__).with_name("ranks.py")


@pytest.fixture(scope="session")
def one(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ranks.py leaves behind in this process alone."""
    out = tmp_path_factory.mktemp("one")
    runpy.run_path(str(RANKS))["measure"](tiny_dataset, out)
    return out


@pytest.fixture(scope="session")
def two(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ranks.py leaves behind in two processes."""
    out = tmp_path_factory.mktemp("two")
    launched(2, RANKS, tiny_dataset, out)
    return out
