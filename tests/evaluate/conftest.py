from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Archives are unpacked into a cache of the test's own."""
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
