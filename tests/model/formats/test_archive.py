import copy
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipkit.errors import CheckpointError
from clipkit.model.checkpoint import load_checkpoint, load_model
from tests.model.conftest import changed, one_line


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(witness),)

    torch.save({"state_dict": Bomb()}, tmp_path / "zip.pt")
    assert f"asks to run code when it is opened ({os.name}.mkdir)" in one_line(
        lambda: load_model(tmp_path / "zip.pt")
    )
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb()))
    one_line(lambda: load_model(tmp_path / "plain.pt"))
    assert not witness.exists()


def test_a_tensor_larger_than_its_bytes_is_refused(saved: Path) -> None:
    weights = torch.load(saved, weights_only=True)["state_dict"]
    weights["positional_embedding"] = torch.zeros(1).expand_as(weights["positional_embedding"])
    path = changed(saved, state_dict=weights)
    for open_it in (load_model, load_checkpoint):
        assert "holds a tensor of 19,712 bytes, of which it stores 4" in one_line(lambda: open_it(path))  # noqa: B023
    deep = {"state": {0: [torch.zeros(1).expand(10**12)]}}
    line = one_line(lambda: load_checkpoint(changed(saved, optimizer=deep)))
    assert "holds a tensor of 4,000,000,000,000 bytes" in line


def test_a_pickle_that_holds_itself_is_read(saved: Path) -> None:
    ring: list[object] = []
    ring.append(ring)
    assert load_checkpoint(changed(saved, ring=ring)).extra["ring"]


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


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_gives_one_clear_line(saved: Path, part: float) -> None:
    whole = saved.read_bytes()
    cut = saved.with_name("cut.pt")
    cut.write_bytes(whole[: int(part * len(whole))])
    for open_it in (load_checkpoint, load_model):
        assert str(cut) in one_line(lambda: open_it(cut))  # noqa: B023


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_damaged_file_opens_or_gives_one_clear_line(saved: Path, data: st.DataObject) -> None:
    whole = bytearray(saved.read_bytes())
    start = whole.index(b"data.pkl")
    end = start + 20_000  # the pickle stands first, and is where damage is not just another number
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, end))] = data.draw(st.integers(0, 255))
    damaged = saved.with_name("damaged.pt")
    damaged.write_bytes(bytes(whole))
    try:
        load_model(damaged)
    except CheckpointError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "an empty file"),
        (b"not a checkpoint", "something else"),
        (pickle.dumps({"epoch": 1}), "a pickle, as PyTorch before 1.6 saved: where you trust it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "a pointer of Git LFS"),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    assert expected in one_line(lambda: load_checkpoint(tmp_path / "a.pt"))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "No such file" in one_line(lambda: load_model(tmp_path / "a.pt"))
    assert "is a folder without config.json; expected a Hugging Face CLIPModel's, or a file" in one_line(
        lambda: load_model(tmp_path)
    )


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
