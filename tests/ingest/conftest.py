from pathlib import Path

import pytest

from tests.ingest.again import Illness, make_list
from tests.serving import Server


@pytest.fixture
def illness() -> Illness:
    """How ill the server of `listed` is, to be changed between two passes."""
    return Illness()


@pytest.fixture
def listed(server: Server, illness: Illness, tmp_path: Path) -> Path:
    """A list of whose URLs some fail as long as the server is ill."""
    return make_list(server, illness, tmp_path)
