import os
from pathlib import Path

import pytest

from clipkit.cpus import available_cpus


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 CPUs whose system has no affinity, as macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ("max 100000", "max 100000", 64),
        ("max 100000", "200000 100000", 2),
        ("150000 100000", "800000 100000", 2),  # of all groups around it the tightest; a part is a CPU
        ("max 100000", "10000 100000", 1),
        ("garbage", "800000", 64),
    ],
)
def test_a_containers_share_is_the_most(outer: str, inner: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / "groups" / "pods" / "mine").mkdir(parents=True)
    (tmp_path / "cpu.max").write_text("100000 100000\n")  # not of the groups
    (tmp_path / "groups" / "pods" / "cpu.max").write_text(f"{outer}\n")
    (tmp_path / "groups" / "pods" / "mine" / "cpu.max").write_text(f"{inner}\n")
    (tmp_path / "own").write_text("4:memory:/other\n0::/pods/mine\n")
    assert available_cpus(tmp_path / "groups", tmp_path / "own") == expected


@pytest.mark.usefixtures("many")
def test_inside_a_container_its_group_is_the_root(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    (tmp_path / "own").write_text("0::/\n")
    assert available_cpus(tmp_path, tmp_path / "own") == 3
    assert available_cpus(tmp_path / "none", tmp_path / "none either") == 64


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_only_the_cpus_that_it_may_run_on_count() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert available_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)
