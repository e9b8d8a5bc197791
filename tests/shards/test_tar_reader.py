"""The tar reader beside Python's tarfile and webdataset's reader; then tars that are cut off or lie."""

import bz2
import gzip
import io
import itertools
import lzma
import os
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_iterator

from clipkit.errors import DatasetError
from clipkit.shards.format import padding, tar_header, tar_member
from clipkit.shards.tar_reader import MAX_EXTENDED_BYTES, Member, TarReader

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
OTHER_KINDS = (
    tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE
)  # fmt: skip
END = bytes(1024)
Entry = tuple[str, bytes, bytes]
"""Name, type and content."""


class Everything:
    def __contains__(self, extension: object) -> bool:
        return True


def packed(entries: list[Entry], form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for name, kind, content in entries:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.mtime = kind, len(content), 1.5
            if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
                member.linkname = "../../etc/" + "x" * 150
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def files(*names: str) -> list[Entry]:
    return [(name, tarfile.REGTYPE, name.encode()) for name in names]


def members(path: Path) -> list[Member]:
    with TarReader(path) as reader:
        return list(reader.members())


def found(folder: Path, content: bytes) -> list[Member]:
    path = folder / "x.tar"
    path.write_bytes(content)
    return members(path)


def header(name: str, size: int = 0, kind: bytes = b"0", size_field: bytes | None = None) -> bytes:
    """A header with any type and size field, and the checksum that belongs to it."""
    block = bytearray(tar_header(name, size))
    block[156:157] = kind
    block[124:136] = size_field or block[124:136]
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def extended(kind: bytes, content: bytes) -> bytes:
    return header("extended", len(content), kind) + content + bytes(padding(len(content)))


def pax(**records: str) -> bytes:
    content = b""
    for name, value in records.items():
        rest = f" {name.replace('__', '.')}={value}\n".encode()
        length = next(n for n in itertools.count(len(rest)) if len(str(n)) + len(rest) == n)
        content += b"%d" % length + rest
    return extended(b"x", content)


NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60
) | st.from_regex(r"([a-z]{60}/){0,4}[a-zé.]{1,120}\.(jpg|txt)", fullmatch=True)
ENTRIES = st.lists(
    st.tuples(NAMES, st.just(tarfile.REGTYPE), st.binary(max_size=1200))
    | st.tuples(NAMES, st.sampled_from(OTHER_KINDS), st.just(b"")),
    max_size=6,
)


@given(ENTRIES, st.sampled_from(list(FORMATS)))
@settings(deadline=None)
def test_members_are_those_that_tarfile_finds(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Entry], form: str
) -> None:
    entries = [(name.rstrip("/") or "x", kind, content) for name, kind, content in entries]
    try:
        content = packed(entries, FORMATS[form])
    except ValueError:
        assert form == "ustar"  # which has no room for such a name
        return
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    path.write_bytes(content)
    with tarfile.open(path) as tar:
        expected = [Member(each.name, each.offset_data, each.size) for each in tar if each.isreg()]
    assert members(path) == expected
    assert [each.name for each in expected] == [name for name, kind, _ in entries if kind == tarfile.REGTYPE]


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "pax"])
def test_what_gnu_tar_packs_is_read(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    names = ["a.jpg", "a.txt", *([] if form in ("v7", "ustar") else [f"{'é' * 100}.jpg"])]
    for name in names:
        (folder / name).write_text(name)
    (folder / "b.jpg").symlink_to("a.jpg")
    os.link(folder / "a.jpg", folder / "c.jpg")
    words = ["tar", f"--format={form}", "-C", str(tmp_path), "-cf", str(tmp_path / "x.tar")]
    subprocess.run(
        [*words, *(f"folder/{name}" for name in names), "folder/b.jpg", "folder/c.jpg"], check=True
    )
    with TarReader(tmp_path / "x.tar") as reader:
        inside = {member.name: reader.read(member).decode() for member in reader.members()}
    assert inside == {f"folder/{name}": name for name in names}


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_what_gnu_tar_packs_sparsely_is_refused(tmp_path: Path, form: str) -> None:
    with (tmp_path / "a.jpg").open("wb") as stream:
        stream.truncate(10 << 20)
        stream.write(b"x")
    words = ["tar", f"--format={form}", "--sparse", "-C", str(tmp_path), "-cf", str(tmp_path / "x.tar")]
    subprocess.run([*words, "a.jpg"], check=True)
    with pytest.raises(DatasetError, match="a plain member, found a sparse one; pack it without --sparse"):
        members(tmp_path / "x.tar")


PIECES = st.sampled_from(["a", "b", "a/a", "a/b", "./a", "A", "a b", "ü", "__c__", "__d__/a", "a.d/b"])
ENDINGS = st.sampled_from([".jpg", ".JPG", ".txt", ".json", ".seg.png", ".", "", "x"])


@given(st.lists(st.builds(str.__add__, PIECES, ENDINGS), max_size=12))
@settings(deadline=None)
def test_samples_are_those_of_webdataset(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    path.write_bytes(packed(files(*names)))
    with TarReader(path) as reader:
        ours = [
            (sample.key, {name: reader.read(member) for name, member in sample.members.items()})
            for sample in reader.samples(Everything())
        ]
    with path.open("rb") as stream:
        try:
            theirs = list(group_by_keys({**each, "__url__": "x"} for each in tar_file_iterator(stream)))
        except ValueError as error:
            assert "duplicate file name" in str(error)
            return
    assert ours == [
        (sample["__key__"], {name: value for name, value in sample.items() if name[:2] != "__"})
        for sample in theirs
    ]


def test_a_second_member_of_a_name_begins_another_sample(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(packed(files("a.jpg", "a.txt", "a.TXT", "a.jpg", "a.JPG")))
    with TarReader(tmp_path / "x.tar") as reader:
        samples = [list(found) for _, found, _ in reader.samples({"jpg", "txt"})]
    assert samples == [["jpg", "txt"], ["txt", "jpg"], ["jpg"]]


def test_hidden_files_and_links_part_no_sample(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(
        packed(
            [
                *files("d/._1.jpg", "d/1.jpg", "d/._1.txt"),
                ("d/1.png", tarfile.SYMTYPE, b""),
                *files("README", "d/1.txt", "d/1.cls", "../../etc/passwd.jpg", "/2.txt"),
            ]
        )
    )
    with TarReader(tmp_path / "x.tar") as reader:
        samples = [(key, list(found)) for key, found, _ in reader.samples({"jpg", "txt"})]
    assert samples == [("d/1", ["jpg", "txt"]), ("../../etc/passwd", ["jpg"]), ("/2", ["txt"])]
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_keys_of_any_bytes_stay_apart(tmp_path: Path) -> None:
    names = [extended(b"L", name) + header("x") for name in (b"\xff.txt", b"\xfe.txt", b"\xc3\xbc.txt")]
    (tmp_path / "x.tar").write_bytes(b"".join(names) + END)
    with TarReader(tmp_path / "x.tar") as reader:
        assert [sample.key for sample in reader.samples({"txt"})] == ["\udcff", "\udcfe", "ü"]


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_a_tar_cut_anywhere_is_told(tmp_path: Path, form: int) -> None:
    long_name = f"{'folder' * 15}/{'name' * 15}.txt"
    content = packed(files("a.jpg", long_name, "b.jpg"), form)
    whole = found(tmp_path, content)
    end = len(content.rstrip(b"\0"))
    end += padding(end)
    for cut in range(0, len(content), 64):
        if cut >= end + 512:
            assert found(tmp_path, content[:cut]) == whole
        else:
            with pytest.raises(DatasetError, match=r"x\.tar: expected .*was it cut off\?") as raised:
                found(tmp_path, content[:cut])
            assert "\n" not in str(raised.value)


def test_the_place_and_the_remedy_are_named(tmp_path: Path) -> None:
    content = tar_member("a.jpg", b"x" * 700) + tar_member("b.jpg", b"y" * 700)
    with pytest.raises(
        DatasetError, match=r"700 bytes of 'b\.jpg' at byte 2,048, found the file's end at 2,"
    ):
        found(tmp_path, content[:2500])
    with pytest.raises(DatasetError, match=r"zeros at byte 3,072, .*`truncate -s \+1024`"):
        found(tmp_path, content)
    subprocess.run(["truncate", "-s", "+1024", tmp_path / "x.tar"], check=True)
    assert [member.name for member in members(tmp_path / "x.tar")] == ["a.jpg", "b.jpg"]


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "byte 0 a tar header, found a file of 0 bytes"),
    "text": (b"no tar at all" * 100, "byte 0 a tar header, found none"),
    "size beyond the end": (header("a.jpg", 5000), r"5,000 bytes of 'a\.jpg' at byte 512"),
    "size of 2**88": (header("a.jpg", 0, size_field=b"\x80" + b"\xff" * 11), "bytes of 'a.jpg' at byte 512"),
    "negative size": (header("a.jpg", 0, size_field=b"\xff" * 12), "byte 0 a tar header"),
    "size in words": (header("a.jpg", 0, size_field=b"+7_7        "), "byte 0 a tar header"),
    "checksum": (header("a.jpg").replace(b"a.jpg", b"b.jpg"), "byte 0 a tar header"),
    "garbage between": (tar_member("a.jpg", b"x") + b"\1" * 512, "byte 1,024 a tar header"),
    "gnu sparse": (header("a.jpg", kind=b"S"), "byte 0 a plain member, found a sparse one"),
    "gnu sparse, long name": (extended(b"L", b"n.jpg\0") + header("a", kind=b"S"), "found a sparse one"),
    "pax sparse": (pax(GNU__sparse__major="1") + header("a.jpg"), "byte 1,024 a plain member"),
    "pax size": (pax(size="5000") + header("a.jpg", 1), r"5,000 bytes of 'a\.jpg' at byte 1,536"),
    "pax size of words": (pax(size="-1") + header("a.jpg"), "a size in pax records, found b'-1'"),
    "pax size too long": (pax(size="9" * 5000) + header("a.jpg"), "a size in pax records"),
    "pax garbage": (extended(b"x", b"12 path"), "byte 0 pax records"),
    "pax length of zero": (extended(b"x", b"0 path=\n" * 9), "byte 0 pax records"),
    "pax length beyond": (extended(b"x", b"999 path=x\n"), "byte 0 pax records"),
    "pax without an end": (extended(b"x", b"9 path=xy"), "byte 0 pax records"),
    "pax too large": (header("x", MAX_EXTENDED_BYTES + 1, b"x"), "1,048,576 bytes of name or pax records"),
    "name too large": (header("x", 0, b"L", b"\x80" + b"\x7f" * 11), "1,048,576 bytes of name or pax"),
    "name alone": (extended(b"L", b"n.jpg\0")[:-1], "expected "),
    "joined": (packed(files("a.jpg")) + packed(files("b.jpg")), "more; are these tars joined"),
    "joined far behind": (packed(files("a.jpg")) + bytes(200_000) + b"\1", "are these tars joined"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_tars_that_lie_get_one_line(tmp_path: Path, name: str) -> None:
    content, message = HOSTILE[name]
    end = b"" if name in ("empty", "joined far behind", "name alone") else END
    with pytest.raises(DatasetError, match=message) as raised:
        found(tmp_path, content + end)
    assert str(tmp_path / "x.tar") in str(raised.value) and "\n" not in str(raised.value)


def test_extended_headers_that_are_well_understood(tmp_path: Path) -> None:
    one = b"x" + bytes(511)
    assert found(tmp_path, pax(path="p.jpg", size="1") + header("a") + one + END) == [
        Member("p.jpg", 1536, 1)
    ]
    for_all = extended(b"g", b"10 path=g\n")
    own = pax(path="own") + header("a.jpg", 1) + one
    tar = for_all + header("a.jpg", 1) + one + own + header("b", 1) + one
    assert [member.name for member in found(tmp_path, tar + END)] == ["g", "own", "g"]
    stacked = extended(b"K", b"link\0") + extended(b"L", b"n.jpg\0") + pax(mtime="1.5") + header("a", 1) + one
    assert [member.name for member in found(tmp_path, stacked + END)] == ["n.jpg"]
    unknown = (
        header("a", 1, b"D") + one + header("b", 9, b"1") + header("c/", 0, b"\0") + header("d", 1) + one
    )
    assert [member.name for member in found(tmp_path, unknown + END)] == ["d"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_only_headers_are_read(tmp_path: Path, form: Literal[1, 2]) -> None:
    """Three members of 20 GiB, which are holes in the file: reading them would take minutes."""
    size = 20 << 30
    path = tmp_path / "x.tar"
    with path.open("wb") as stream:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            member = tarfile.TarInfo(name)
            member.size = size
            stream.write(member.tobuf(form))
            stream.seek(size, os.SEEK_CUR)
        stream.truncate(stream.tell() + 1024)
    before = bytes_read()
    assert [(member.name, member.size) for member in members(path)] == [
        (name, size) for name in ("a.jpg", "b.jpg", "c.jpg")
    ]
    assert bytes_read() - before < 200_000


def bytes_read() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_tar_is_to_be_unpacked(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    with pytest.raises(DatasetError, match=r"found a compressed one.*unpack it"):
        found(tmp_path, compress(packed(files("a.jpg"))))


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    for name, message in (
        ("missing.tar", "No such file"), ("pipe.tar", "no regular file"), (".", "no regular file")
    ):  # fmt: skip
        with pytest.raises(DatasetError, match=message):
            TarReader(tmp_path / name)


def test_the_end_is_looked_at_first(tmp_path: Path) -> None:
    content = packed(files(*(f"{number}.jpg" for number in range(50))))
    for cut, message in ((len(content), None), (20_000, "cut off"), (700, "cut off"), (0, "cut off")):
        (tmp_path / "x.tar").write_bytes(content[:cut])
        with TarReader(tmp_path / "x.tar") as reader:
            if message is None:
                reader.check_end()
            else:
                with pytest.raises(DatasetError, match=message):
                    reader.check_end()


@given(st.binary(max_size=2000), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4))
@settings(deadline=None)
def test_any_bytes_end_in_members_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(packed(files("a.jpg", "é" * 120 + ".txt")) + tail)
    for place, byte in changes:
        content[place] = byte
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    path.write_bytes(content)
    try:
        inside = members(path)
    except DatasetError as error:
        assert "\n" not in str(error)
    else:
        assert all(member.offset + member.size <= len(content) for member in inside)


def test_memory_does_not_grow_with_a_tar(tmp_path: Path) -> None:
    with (tmp_path / "x.tar").open("wb") as stream:
        for number in range(20_000):
            stream.write(pax(mtime="1.5") + tar_member(f"{number}.jpg", b"x"))
            stream.write(tar_member(f"{number}.x{number}", b"x"))  # an extension of its own
        stream.write(END)
    tracemalloc.start()
    with TarReader(tmp_path / "x.tar") as reader:
        count = sum(1 for _ in reader.samples({"jpg"}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000 and peak < 500_000
