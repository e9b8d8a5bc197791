"""Archives that people download: whole ones are read where they lie, others refused in one line."""

import gzip
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from clipkit.errors import ClipkitError, EvaluationError
from clipkit.evaluate.archives import GzippedTar, members, open_archive, read_member
from clipkit.evaluate.images import read_folder
from tests.conftest import picture
from tests.evaluate.packed import gzipped, tarred, unpacked

FILES = {f"{name}/{n}.jpg": picture(10 * i + n) for i, name in enumerate(("cat", "dog")) for n in range(3)}
LABELS = {"cat": 0, "dog": 1}


def cached(tmp_path: Path) -> list[str]:
    return [file.name for file in (tmp_path / "cache" / "files").glob("*") if file.suffix != ".lock"]


@pytest.mark.parametrize("inner", ["", "./", "pets/", "./pets/v1/"])
@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz"])
def test_an_archive_holds_what_its_folder_holds(tmp_path: Path, inner: str, ending: str) -> None:
    hidden = {f"{inner}cat/._0.jpg": b"of a Mac", f"{inner}.DS_Store": b"", f"{inner}LICENSE": b""}
    files = {inner + name: content for name, content in FILES.items()}
    path = tmp_path / f"pets.{ending}"
    content = tarred(files | hidden)
    path.write_bytes(content if ending == "tar" else gzip.compress(content))
    folder = read_folder(unpacked(tmp_path / "pets", files | hidden), LABELS, name="pets")
    images = pickle.loads(pickle.dumps(read_folder(path, LABELS, name="pets")))
    assert images.labels == folder.labels == (0, 0, 0, 1, 1, 1)
    assert images.pictures.names == folder.pictures.names == tuple(FILES)
    for index, name in enumerate(FILES):
        assert images.pictures.read(index) == folder.pictures.read(index) == FILES[name]
        assert images.pictures.place(index) == f"{path}: {name}"
    assert sorted(file.name for file in tmp_path.iterdir() if file.name != "cache") == ["pets", path.name]


def test_a_tar_gz_is_unpacked_once_into_the_cache(tmp_path: Path) -> None:
    path = gzipped(tmp_path / "pets.tar.gz", tarred(FILES))
    read_folder(path, LABELS, name="pets")
    (copy,) = cached(tmp_path)
    assert (tmp_path / "cache" / "files" / copy).read_bytes() == tarred(FILES)
    os.utime(tmp_path / "cache" / "files" / copy, ns=(1, 1))
    images = read_folder(path, LABELS, name="pets")
    assert cached(tmp_path) == [copy]
    (tmp_path / "cache" / "files" / copy).unlink()  # as another program makes room
    assert images.pictures.read(4) == FILES["dog/1.jpg"]
    other = tarred(FILES | {"dog/1.jpg": picture(99)})
    gzipped(path, other)
    assert read_folder(path, LABELS, name="pets").pictures.read(4) == picture(99)


def test_a_tar_gz_whose_name_is_no_utf_8(tmp_path: Path) -> None:
    path = gzipped(tmp_path / os.fsdecode(b"caf\xe9.tar.gz"), tarred(FILES))
    assert [member.name for member in members(open_archive(path), path)] == list(FILES)


def test_a_tar_that_is_changed_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pets.tar"
    path.write_bytes(tarred(FILES))
    pictures = read_folder(path, LABELS, name="pets").pictures
    path.write_bytes(tarred(FILES | {"cat/0.jpg": picture(99)}))
    with pytest.raises(ClipkitError, match="found it changed"):
        pictures.read(0)


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def sized(name: str, size: int) -> bytes:
    """A tar whose header says more than there is."""
    header = tarfile.TarInfo(name)
    header.size = size
    return header.tobuf(tarfile.GNU_FORMAT) + tarred(FILES)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "climbs out": (
        lambda: tarred({"../../x.jpg": b""} | FILES),
        r"a path that leaves it: '\.\./\.\./x\.jpg'",
    ),
    "climbs within": (lambda: tarred({"cat/../../x.jpg": b""} | FILES), "a path that leaves it"),
    "absolute": (
        lambda: tarred({"/etc/passwd.jpg": b""} | FILES),
        "a path that leaves it: '/etc/passwd.jpg'",
    ),
    "symbolic link": (
        lambda: tarred(FILES, link("dog/9.jpg", "/etc/passwd", tarfile.SYMTYPE)),
        "found a link or device: 'dog/9.jpg'",
    ),
    "hard link": (
        lambda: tarred(FILES, link("dog/9.jpg", "cat/0.jpg", tarfile.LNKTYPE)),
        "found a link or device",
    ),
    "device": (lambda: tarred(FILES, link("dog/zero.jpg", "", tarfile.CHRTYPE)), "found a link or device"),
    "pipe": (lambda: tarred(FILES, link("dog/pipe.jpg", "", tarfile.FIFOTYPE)), "found a link or device"),
    "absurd size": (lambda: sized("cat/9.jpg", 1 << 60), "expected 1,152,921,504,606,846,976 bytes of"),
    "more than there is": (lambda: sized("cat/9.jpg", 200_000_000), "was it cut off"),
    "twice": (lambda: twice(), "found 1 twice: 'dog/2.jpg'"),
    "cut off": (lambda: tarred(FILES)[:4000], "was it cut off"),
    "no end": (lambda: tarred(FILES).rstrip(b"\0"), "was it cut off"),
    "no tar": (lambda: b"<html>" * 1000, "expected at byte 0 a tar header, found none"),
    "damaged": (lambda: tarred(FILES).replace(b"dog/1.jpg", b"dog/7.jpg"), "a tar header, found none"),
    "empty tar": (lambda: tarred({}), "expected 2 class folders, found 0"),
    "a control character": (lambda: tarred({"../\x1b[2J.jpg": b""}), r"leaves it: '\.\./\\x1b\[2J\.jpg'"),
}


def twice() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in [*FILES.items(), ("./dog/2.jpg", picture(99))]:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("packed", [False, True], ids=["tar", "tar.gz"])
@pytest.mark.parametrize(("make", "says"), HOSTILE.values(), ids=HOSTILE.keys())
def test_an_archive_that_is_not_whole_and_harmless_is_one_line(
    tmp_path: Path, make: Callable[[], bytes], says: str, packed: bool
) -> None:
    path = tmp_path / ("pets.tar.gz" if packed else "pets.tar")
    path.write_bytes(gzip.compress(make()) if packed else make())
    with pytest.raises(ClipkitError, match=says) as caught:
        read_folder(path, LABELS, name="pets")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_too_large_for_a_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pets.tar"
    path.write_bytes(sized("cat/9.jpg", 300_000_000)[:512])
    os.truncate(path, 300_010_240)  # sparse
    with pytest.raises(
        EvaluationError, match="expected at most 268,435,456 bytes a file, found 300,000,000: 'cat"
    ):
        read_folder(path, LABELS, name="pets")


def test_a_gzip_that_is_cut_off_or_damaged_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    whole = gzip.compress(tarred(FILES))
    path = tmp_path / "pets.tar.gz"
    damaged = bytearray(whole)
    damaged[-8] ^= 1  # of the checksum
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    joined = whole + gzip.compress(tarred(FILES))
    for content, says in [
        (whole[: len(whole) // 2] + whole[-4:], "found one that is cut off; get it again"),
        (whole[:10], "found one that is cut off"),
        (bytes(damaged), r"the tar\.gz is damaged \(CRC check failed"),
        (bytes(broken), r"the tar\.gz is damaged|cut off|says, found more"),
        (joined, r"of one piece, that unpacks to 20,480 bytes as its end says, found more; gunzip it"),
        (b"", "found an empty file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(EvaluationError, match=says) as caught:
            read_folder(path, LABELS, name="pets")
        assert "\n" not in str(caught.value)
        assert cached(tmp_path) == []


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = gzipped(tmp_path / "bomb.tar.gz", bytes(210_000_000))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(
        EvaluationError, match=r"end says that \S+ bytes unpack to 210,000,000; it is cut off or no"
    ):
        read_folder(path, LABELS, name="pets")
    content = bytearray(path.read_bytes())
    content[-4:] = (100_000).to_bytes(4, "little")  # a lie
    path.write_bytes(content)
    with pytest.raises(EvaluationError, match="unpacks to 100,000 bytes as its end says, found more"):
        read_folder(path, LABELS, name="pets")
    assert cached(tmp_path) == []


def test_sizes_beyond_four_gigabytes_are_told_from_the_archives_own(tmp_path: Path) -> None:
    path = tmp_path / "val.tar.gz"
    with path.open("wb") as file:
        file.write(b"\x1f\x8b")
        file.seek(6_740_000_000)  # sparse: as the pictures do not shrink
        file.write((6_744_924_160 % (1 << 32)).to_bytes(4, "little"))
    archive = open_archive(path)
    assert isinstance(archive, GzippedTar)
    assert archive.wanted.bytes == 6_744_924_160


def test_no_room_in_the_cache_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gzipped(tmp_path / "pets.tar.gz", tarred(FILES))
    monkeypatch.setenv("CLIPKIT_CACHE_BYTES", "1000")
    with pytest.raises(
        ClipkitError, match="expected a cache that holds at least one file of 20,480 bytes, found one"
    ):
        read_folder(path, LABELS, name="pets")


def test_what_is_no_archive_and_other_compressions(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"none\.tar: expected a tar or tar\.gz, found: No such file"):
        read_folder(tmp_path / "none.tar", LABELS, name="pets")
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(EvaluationError, match="found: no regular file"):
        read_folder(tmp_path / "pipe.tar", LABELS, name="pets")
    (tmp_path / "pets.tar").write_bytes(b"BZh91AY&SY")
    with pytest.raises(ClipkitError, match="found a compressed one"):
        read_folder(tmp_path / "pets.tar", LABELS, name="pets")


def test_members_are_read_by_their_ranges(tmp_path: Path) -> None:
    (tmp_path / "pets.tar").write_bytes(tarred(FILES))
    archive = open_archive(tmp_path / "pets.tar")
    found = {each.name: read_member(archive, each) for each in members(archive, tmp_path / "pets.tar")}
    assert found == FILES
