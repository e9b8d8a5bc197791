import runpy
from pathlib import Path

import pytest

from tests.conftest import picture
from tests.threads import one_thread as one_thread
from tests.train.launching import launched

RANKS = Path(__file__).with_name("ranks.py")


@pytest.fixture(scope="session")
def labelled_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders of hundreds of names for one picture each; one that the second rank reads is broken."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate("abc"):
        (folder / name).mkdir()
        (folder / f"{number}").write_bytes(picture(number))
        for place in range(333 + number):
            (folder / name / f"{place:03}.jpg").symlink_to(folder / f"{number}")
    (folder / "a" / "007.jpg").unlink()
    (folder / "a" / "007.jpg").write_bytes(b"none")
    return folder


@pytest.fixture(scope="session")
def one(tiny_dataset: Path, labelled_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ranks.py leaves behind in this process alone."""
    out = tmp_path_factory.mktemp("one")
    runpy.run_path(str(RANKS))["measure"](tiny_dataset, labelled_pictures, out)
    return out


@pytest.fixture(scope="session")
def two(tiny_dataset: Path, labelled_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ranks.py leaves behind in two processes."""
    out = tmp_path_factory.mktemp("two")
    launched(2, RANKS, tiny_dataset, labelled_pictures, out)
    return out
