import os
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from clipkit.locks import exclusive
from tests.conftest import picture
from tests.threads import one_thread as one_thread
from tests.train.launching import launched

RANKS = Path(__file__).with_name("ranks.py")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` filled for all of a session's processes. Read it, do not change it."""
    own = factory.getbasetemp()
    common = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with exclusive(common / f"{name}.lock", wait=True):
        if not (common / name).exists():
            begun = factory.mktemp(name)
            make(begun)
            begun.rename(common / name)
    return common / name


@pytest.fixture(scope="session")
def labelled_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders of hundreds of names for one picture each; one that the second rank reads is broken."""

    def make(folder: Path) -> None:
        for number, name in enumerate("abc"):
            (folder / name).mkdir()
            (folder / f"{number}").write_bytes(picture(number))
            for place in range(333 + number):
                (folder / name / f"{place:03}.jpg").symlink_to(f"../{number}")
        (folder / "a" / "007.jpg").unlink()
        (folder / "a" / "007.jpg").write_bytes(b"none")

    return made_once(tmp_path_factory, "pictures", make)


@pytest.fixture(scope="session")
def one(tiny_dataset: Path, labelled_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ranks.py leaves behind in this process alone."""

    def make(out: Path) -> None:
        runpy.run_path(str(RANKS))["measure"](tiny_dataset, labelled_pictures, out)

    return made_once(tmp_path_factory, "one", make)


@pytest.fixture(scope="session")
def two(tiny_dataset: Path, labelled_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ranks.py leaves behind in two processes."""
    return made_once(
        tmp_path_factory, "two", lambda out: launched(2, RANKS, tiny_dataset, labelled_pictures, out)
    )
