"""The indexes of foreign tars: made once on a machine, by several processes if the tars are large."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipkit.errors import DatasetError
from clipkit.ingest.tars import tars
from clipkit.shards import headers
from clipkit.shards.shard_set import ShardSet
from tests.conftest import picture
from tests.tars import write_tar

NOTED = """
import os, sys, time
from pathlib import Path
from clipkit.shards import headers
from clipkit.shards.shard_set import ShardSet

read = headers._read

def noted(reader, tar):
    with open(sys.argv[2], "a") as log:
        log.write(f"{os.getpid()} {tar.path.name}\\n")
    time.sleep(0.2)
    return read(reader, tar)

headers._read = noted
print(ShardSet(sys.argv[1]).fingerprint)
"""


def sample(row: int) -> dict[str, Any]:
    return {"__key__": f"s{row}", "jpg": picture(row), "txt": f"caption {row}"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tars").mkdir()
    return tmp_path / "tars"


def test_one_program_makes_them_and_others_wait_for_it(folder: Path, tmp_path: Path) -> None:
    for number in range(6):
        write_tar(folder / f"{number}.tar", [sample(number)])
    command = [sys.executable, "-c", NOTED, str(folder), str(tmp_path / "log")]
    programs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {program.communicate()[0] for program in programs}
    assert said == {f"{ShardSet(folder).fingerprint}\n"}
    read = sorted(line.split()[1] for line in (tmp_path / "log").read_text().splitlines())
    assert read == [f"{number}.tar" for number in range(6)]
    assert not list(folder.glob(".*.lock"))


def write_large(path: Path, row: int) -> None:
    """A tar of one sample behind a gigabyte that takes no room on the disk."""
    with path.open("wb") as file:
        large = tarfile.TarInfo("large.bin")
        large.size = 1 << 30
        file.write(large.tobuf())
        file.seek(large.size, os.SEEK_CUR)
        behind = io.BytesIO()
        with tarfile.open(fileobj=behind, mode="w") as tar:
            for name, content in ((f"{row}.jpg", picture(row)), (f"{row}.txt", b"caption")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        file.write(behind.getvalue())


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU reads them alone")
def test_large_tars_are_read_by_several_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write_large(folder / f"{number}.tar", number)
    with monkeypatch.context() as patch:
        patch.setattr(headers, "_read", lambda *given: pytest.fail("read in this process"))
        found = ShardSet(folder)
    assert found.sizes.tolist() == [1, 1, 1]
    assert [found.read(number, 0).image for number in range(3)] == [picture(number) for number in range(3)]
    for index in folder.glob(".*.headers.parquet"):
        index.unlink()
    monkeypatch.setattr(headers, "_MOST_PROCESSES", 1)
    assert ShardSet(folder).fingerprint == found.fingerprint


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU reads them alone")
def test_a_damaged_one_among_large_ones_is_one_line(folder: Path) -> None:
    for number in range(3):
        write_large(folder / f"{number}.tar", number)
    with (folder / "1.tar").open("r+b") as tar:
        tar.truncate(1 << 20)
    with pytest.raises(DatasetError, match=r"1\.tar: expected .* was it cut off"):
        ShardSet(folder)
    assert not list(folder.glob(".*.lock"))


@pytest.mark.parametrize("read", [ShardSet, lambda folder: tars([str(folder)])])
def test_all_that_cannot_be_read_are_named_at_once(folder: Path, read: Callable[[Path], object]) -> None:
    for number in range(4):
        tar = write_tar(folder / f"{number}.tar", [sample(number)])
        if number != 2:
            os.truncate(tar, 900)
    with pytest.raises(DatasetError, match=r"/0\.tar: .* was it cut off\? .*; 2 more .*: 1\.tar, 3\.tar$"):
        read(folder)
