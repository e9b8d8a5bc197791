"""Zip files whose directory lies."""

import copy
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from clipkit.model.checkpoint import load_checkpoint, load_model
from clipkit.model.formats.archive import read_model_file
from tests.model.conftest import one_line
from tests.model.formats.crafted import Rebuilt, pickled, zipped


def test_members_that_share_the_bytes_of_a_file_are_refused(saved: Path) -> None:
    with zipfile.ZipFile(saved, "a") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        for number in range(100):
            twin = copy.copy(largest)
            twin.filename = f"archive/data/{1000 + number}"
            archive.filelist.append(twin)
        archive.writestr("archive/last", b"")
    for open_it in (load_model, load_checkpoint):
        line = one_line(lambda: open_it(saved))  # noqa: B023
        assert "claims to hold" in line and line.endswith("refused")


def test_other_zip_files_and_a_zip_bomb(tmp_path: Path, saved: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "not of PyTorch" in one_line(lambda: load_checkpoint(tmp_path / "other.zip"))
    with (
        zipfile.ZipFile(saved) as archive,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in archive.namelist():
            bomb.writestr(member, archive.read(member))
    assert "compressed data" in one_line(lambda: load_checkpoint(tmp_path / "bomb.pt"))


def in_directory(path: Path, name: str, offset: int, value: bytes) -> Path:
    """The file with the directory's entry of a member changed, `offset` bytes into it."""
    whole = bytearray(path.read_bytes())
    entry = whole.rindex(b"a/" + name.encode()) - 46
    assert whole[entry : entry + 4] == b"PK\x01\x02"
    whole[entry + offset : entry + offset + len(value)] = value
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize(
    ("name", "offset", "value", "expected"),
    [
        ("data/0", 24, struct.pack("<L", 2**30), "claims to hold 1,073,"),
        ("data/0", 20, struct.pack("<L", 2**30), "claims to hold"),
        ("data/0", 24, struct.pack("<L", 8), "claims 16 bytes for data/0, which holds 8"),
        ("data/0", 16, bytes(4), "is cut short or damaged in data/0"),
        ("data/0", 42, bytes(4), "claims to hold"),
        ("data/0", 42, struct.pack("<L", 2**31), "claims to hold"),
        ("data/0", 8, b"\x01", "holds compressed data"),
        ("data/0", 8, b"\x20", "is cut short or damaged in data/0"),
        ("data/0", 10, b"\x08", "holds compressed data"),
        ("data/0", 46, b"b", "is a zip file, but not of PyTorch"),
        ("data/1", 46, b"a/data/0", "is a zip file, but not of PyTorch"),
        ("data/1", 53, b"7", "is cut short or damaged in data/7"),
        ("data/0", 53, b"7", "names the bytes '0', which are not there"),
        ("data.pkl", 46, b"a/date.pkl", "is a zip file, but not of PyTorch"),
        ("data.pkl", 28, b"\xff\xff", "claims to hold"),
    ],
)
def test_lies_in_the_directory(tmp_path: Path, name: str, offset: int, value: bytes, expected: str) -> None:
    path = zipped(tmp_path / "a.pt", pickled({"a": Rebuilt()}), {"data/1": bytes(16)})
    assert torch.equal(read_model_file(path).tensors["a"], torch.zeros(4))
    assert expected in one_line(lambda: read_model_file(in_directory(path, name, offset, value)))


def test_bombs_of_compressed_data(tmp_path: Path, archive: Path) -> None:
    path = zipped(tmp_path / "a.pt", pickled({"a": Rebuilt()}), compressed=zipfile.ZIP_DEFLATED)
    assert "compressed data" in one_line(lambda: load_model(path))
    folder = archive.stem
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as more:
        for number in range(3):
            more.writestr(f"{folder}/code/{number}.py", bytes(100 << 20))
    assert archive.stat().st_size < 20 << 20
    assert "claims to hold 3" in one_line(lambda: load_model(archive))


def test_a_directory_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 16)
    count = (9 << 20) // len(entry)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65_535, 65_535, len(entry) * count, 4, 0)
    path.write_bytes(b"PK\x03\x04" + entry * count + end)
    assert "is cut short or damaged" in one_line(lambda: load_model(path))
