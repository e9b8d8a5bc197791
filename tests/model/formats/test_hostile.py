import os
import pickle
import struct
import zipfile
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipkit.errors import CheckpointError
from clipkit.model.checkpoint import load_checkpoint, load_model
from clipkit.model.formats.archive import read_model_file
from tests.model.conftest import MICRO, changed, one_line, trained_looking
from tests.model.formats.crafted import scripted, zipped


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


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_gives_one_clear_line(saved: Path, part: float) -> None:
    whole = saved.read_bytes()
    cut = saved.with_name("cut.pt")
    cut.write_bytes(whole[: int(part * len(whole))])
    for open_it in (load_checkpoint, load_model):
        assert str(cut) in one_line(lambda: open_it(cut))  # noqa: B023


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "an empty file"),
        (b"not a checkpoint", "something else"),
        (pickle.dumps({"epoch": 1}), "a pickle, as PyTorch before 1.6 saved: if you trust it"),
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


LITTLE = {
    "a": torch.arange(60.0).view(3, 20),
    "b.c": torch.ones(5, dtype=torch.float16),
    "b.d": torch.tensor(7),
}


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two files of a few kilobytes, so that most bits in them mean something."""
    folder = tmp_path_factory.mktemp("little")
    torch.save({"state_dict": LITTLE, "optimizer": {"state": {0: torch.ones(9)}}}, folder / "saved")
    scripted(LITTLE, folder / "traced")
    return {kind: (folder / kind).read_bytes() for kind in ("saved", "traced")}


def rezipped(path: Path, changes: dict[str, bytes], folder: Path | None = None) -> Path:
    changed = (folder or path.parent) / "changed.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for entry in old.infolist():
            name = entry.filename.partition("/")[2]
            new.writestr(entry.filename, changes.get(name, old.read(entry)), entry.compress_type)
    return changed


def test_nothing_in_a_torchscript_archive_is_run(archive: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {witness}",)

    bomb = pickle.dumps(Bomb(), 2)
    line = one_line(lambda: load_model(rezipped(archive, {"data.pkl": bomb})))
    assert f"asks to run code when it is opened ({os.name}.system): refused" in line
    program = {"constants.pkl": bomb, "code/__torch__/torch/nn/modules/module.py": b"import os\n" + bomb}
    opened = load_model(rezipped(archive, program))  # what is not read does no harm
    assert torch.equal(opened.ln_final.bias, trained_looking(MICRO).ln_final.bias)
    assert not witness.exists()


@pytest.mark.parametrize("kind", ["saved", "archive", "tensors_file"])
def test_a_file_cut_short_at_any_length(request: pytest.FixtureRequest, kind: str) -> None:
    path: Path = request.getfixturevalue(kind)
    whole = path.read_bytes()
    ends = {0, 1, 3, 4, 7, 8, 9, 50, len(whole) - 1, len(whole) - 22, len(whole) - 23, len(whole) - 42}
    for end in ends | {len(whole) * part // 40 for part in range(40)}:
        (path.parent / "cut").write_bytes(whole[:end])
        assert "cut" in one_line(lambda: load_model(path.parent / "cut", model="ViT-Micro-16-32"))


@pytest.mark.parametrize("kind", ["saved", "traced"])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_changes_nothing_unnoticed(
    little: dict[str, bytes], kind: str, data: st.DataObject
) -> None:
    whole = bytearray(little[kind])
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with NamedTemporaryFile() as flipped:
        Path(flipped.name).write_bytes(whole)
        try:
            found = read_model_file(Path(flipped.name)).tensors
        except CheckpointError as error:
            assert "\n" not in str(error)
            return
    assert found.keys() == LITTLE.keys()
    assert all(torch.equal(found[key], value) for key, value in LITTLE.items())


@pytest.mark.parametrize("kind", ["saved", "traced"])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_changed_pickle_is_read_or_gives_one_clear_line(
    little: dict[str, bytes], kind: str, data: st.DataObject
) -> None:
    with NamedTemporaryFile() as original, TemporaryDirectory() as folder:
        Path(original.name).write_bytes(little[kind])
        with zipfile.ZipFile(original.name) as members:
            name = next(name for name in members.namelist() if name.endswith("/data.pkl"))
            pickled_bytes = bytearray(members.read(name))
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(0, len(pickled_bytes) - 1))
            pickled_bytes[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        changed_file = rezipped(Path(original.name), {"data.pkl": bytes(pickled_bytes)}, Path(folder))
        for open_it in (read_model_file, load_checkpoint):
            try:
                open_it(changed_file)
            except CheckpointError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["saved", "traced"])
def test_every_member_counts_even_those_that_are_not_needed(
    little: dict[str, bytes], kind: str, tmp_path: Path
) -> None:
    path = tmp_path / kind
    path.write_bytes(little[kind])
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if entry.file_size]
    assert len(entries) > 8
    for entry in entries:
        damaged = bytearray(little[kind])
        damaged[_start(little[kind], entry) + entry.compress_size // 2] ^= 16
        path.write_bytes(damaged)
        assert f"damaged in {entry.filename.partition('/')[2]};" in one_line(lambda: read_model_file(path))


def _start(whole: bytes, entry: zipfile.ZipInfo) -> int:
    name, extra = struct.unpack_from("<HH", whole, entry.header_offset + 26)
    return int(entry.header_offset + 30 + name + extra)


M = b"\x80\x02c__torch__\nM\n"
A, B = (b"X\x01\x00\x00\x00" + name for name in (b"a", b"b"))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (M + b"q\x01)\x81q\x02}" + A + b"h\x02sb.", "a module twice, or in itself"),
        (M + b"q\x01)\x81}" + A + b"h\x01)\x81q\x02s" + B + b"h\x02sb.", "a module twice, or in itself"),
        (M + b"q\x01" + (b"h\x01)\x81}" + A) * 3000 + b"N" + b"sb" * 3000 + b".", "a module twice, or"),
        (M + b")\x81.", "no table of named tensors"),
        (M + b".", "no table of named tensors"),
    ],
)
def test_modules_that_hold_themselves(tmp_path: Path, data: bytes, expected: str) -> None:
    path = zipped(tmp_path / "a.pt", data, {"constants.pkl": b"."})
    assert expected in one_line(lambda: load_model(path))


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for open_it in (load_model, load_checkpoint, read_model_file):
        assert "is no regular file" in one_line(lambda: open_it(tmp_path / "pipe"))  # noqa: B023
        assert "is no regular file" in one_line(lambda: open_it(Path("/dev/zero")))  # noqa: B023
        assert "Too many levels" in one_line(lambda: open_it(tmp_path / "circle"))  # noqa: B023
        assert "cannot be read: Input/output error" in one_line(lambda: open_it(Path("/proc/self/mem")))  # noqa: B023


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(saved: Path) -> None:
    saved.chmod(0)
    assert "Permission denied" in one_line(lambda: load_model(saved))
