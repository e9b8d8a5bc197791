"""Tars as a source: which rows they give, and what is refused before any work."""

import json
import shutil
import tarfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.errors import ClipkitError, SourceError
from clipkit.ingest.rows import Failed, Fetched, UrlRow
from clipkit.ingest.sources import Source
from clipkit.ingest.tar_rows import read_member
from clipkit.ingest.tars import tars
from clipkit.shards.headers import PICTURES
from clipkit.shards.shard_set import ShardSet
from clipkit.shards.text_files import MAX_RECORD_BYTES
from tests.tars import write_img2dataset, write_tar

Sample = dict[str, Any]


def rows_of(
    folder: Path, *samples: Sample, caption: str | None = None, keep: Sequence[str] = ()
) -> list[UrlRow]:
    numbered = ({"__key__": f"{number:04d}", **sample} for number, sample in enumerate(samples))
    path = write_tar(folder / "x.tar", numbered)
    source = tars([str(path)], caption, keep)
    rows = list(source)
    assert [row.source_row for row in rows] == list(range(source.records))
    assert {row.source for row in rows} <= {"x.tar"} and len(rows) == len(samples)
    return rows


def picture_of(row: UrlRow) -> bytes:
    assert row.file is not None and row.span is not None
    fetched = read_member(row.file, *row.span, 1000)
    assert isinstance(fetched, Fetched)
    return fetched.data


def test_captions_are_those_that_a_stream_of_the_tars_has(tmp_path: Path) -> None:
    described: list[object] = [
        {"caption": None, "text": "b"},
        {"caption": 5, "text": "b"},
        {"caption": ["a"], "text": "b"},
        {"caption": "", "text": "b"},
        {"caption": "\ud800 alone \udc00"},
        {"caption": None},
        {"caption": 5},
        {"text": ["a"]},
    ]
    bodies = [json.dumps(each).encode() for each in described] + [b'\xef\xbb\xbf{"caption": "marked"}']
    rows = rows_of(tmp_path, *({"jpg": b"x", "json": body} for body in bodies))
    shard_set = ShardSet(tmp_path / "x.tar")
    streamed = [shard_set.read(0, row).caption for row in range(len(shard_set))]
    assert [row.caption for row in rows if not row.problem] == streamed
    assert streamed == ["b", "b", "b", "", "\ufffd alone \ufffd", "marked"]


def test_a_field_to_keep_may_come_late(tmp_path: Path) -> None:
    rare = [{"jpg": b"x", "txt": "t", "json": json.dumps({"a": number})} for number in range(300)]
    rows = rows_of(tmp_path, *rare, {"jpg": b"x", "txt": "t", "json": '{"late": 1}'}, keep=["a", "late"])
    assert (rows[0].kept, rows[-1].kept) == ({"a": "0", "late": None}, {"a": None, "late": "1"})


def test_a_sample_is_a_row(tmp_path: Path) -> None:
    fields = {"url": "http://h/0", "caption": "not this one", "score": 0.5, "tags": ["ä"], "none": None}
    first, second, third = rows_of(
        tmp_path,
        {"jpg": b"picture", "txt": "a «caption»\n", "json": json.dumps(fields)},
        {"png": b"other", "txt": b"\xff\xfe", "cls": 7, "pyd": b"never read"},
        {"JPEG": b"third", "txt": "", "json": b"[1, 2]"},
    )
    assert (first.url, first.caption, first.problem) == ("http://h/0", "a «caption»\n", None)
    assert (second.url, second.caption) == ("", "\ufffd\ufffd")
    assert (third.url, third.caption) == ("", "")
    assert [picture_of(row) for row in (first, second, third)] == [b"picture", b"other", b"third"]


def test_captions_without_a_txt_member(tmp_path: Path) -> None:
    def described(**fields: object) -> Sample:
        return {"jpg": b"x", "json": json.dumps(fields)}

    rows = rows_of(
        tmp_path,
        described(caption="a", text="b"),
        described(text="b", alt="c"),
        described(caption=None),
        described(caption=["a", "b"], url=5),
        described(caption="\ud800 alone"),
        described(text=5),
    )
    assert [row.caption for row in rows] == ["a", "b", "", "", "\ufffd alone", ""]
    assert [row.problem for row in rows if row.problem] == [
        "0002: the field caption of its json is no text but null",
        "0003: the field caption of its json is a list or an object, no text",
        "0005: the field text of its json is no text but 5, which is taken with --caption-col alone",
    ]
    assert rows[3].url == "5"
    rows = rows_of(tmp_path, {"txt": "t", **described(top="T", caption="c")}, described(), caption="top")
    assert [row.caption for row in rows] == ["T", ""]
    assert rows[1].problem == "0001: no field top of a json among the members that follow one another"


LONG = b"x" * (MAX_RECORD_BYTES + 1)
PROBLEMS: dict[str, tuple[Sample, str]] = {
    "no picture": ({"txt": "t", "mp3": b"x"}, "no picture (jpg, png, jpeg, webp, gif, avif, bmp) among"),
    "no caption": ({"jpg": b"x", "cls": 3}, "no txt member and no field caption or text of a json among"),
    "no field": (
        {"jpg": b"x", "json": b'{"title": 1}'},
        "no txt member and no field caption or text of a json",
    ),
    "nothing known": ({"md": b"hello"}, "no txt member"),
    "long txt": ({"jpg": b"x", "txt": LONG}, "a txt member of more than 1,048,576 bytes"),
    "long json": ({"jpg": b"x", "json": LONG}, "a json member of more than 1,048,576 bytes"),
    "broken json": ({"jpg": b"x", "json": b'{"caption": '}, "not JSON: "),
    "deep json": ({"jpg": b"x", "json": b"[" * 100_000}, "not JSON: "),
    "json of no object": ({"jpg": b"x", "json": b'"caption"'}, "JSON, but no object"),
    "another part's picture": ({"seg.png": b"x", "txt": "t"}, "no picture"),
    "a dot in the key": (
        {"v1.jpg": b"x", "v1.txt": "t"},
        "no txt member and no field caption or text of a json among the members that follow one another, "
        "such as 0001.v1.jpg: a key ends at the first dot of a name",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_sample_that_lacks_something_is_a_row_all_the_same(tmp_path: Path, name: str) -> None:
    sample, problem = PROBLEMS[name]
    before, row, after = rows_of(
        tmp_path, {"jpg": b"x", "txt": "before"}, sample, {"jpg": b"y", "txt": "after"}
    )
    assert (row.problem or "").startswith(f"0001: {problem}") and row.reason == "bad_row"
    assert row.caption == ("t" if "txt" in sample and sample["txt"] == "t" else "")
    assert row.file is None and (before.problem, after.problem) == (None, None)


def test_json_that_cannot_be_read_matters_only_if_it_is_needed(tmp_path: Path) -> None:
    broken = {"jpg": b"x", "txt": "t", "json": b"{"}
    whole = {"jpg": b"x", "txt": "t", "json": b'{"score": 1}'}
    (row,) = rows_of(tmp_path, broken)
    assert (row.url, row.caption, row.problem) == ("", "t", None)
    kept, row = rows_of(tmp_path, whole, broken, keep=["score"])
    assert kept.kept == {"score": "1"} and "not JSON" in (row.problem or "")


def test_of_several_pictures_the_first_kind_is_taken(tmp_path: Path) -> None:
    for place, kind in enumerate(PICTURES):
        pictures = {other: other.encode() for other in reversed(PICTURES[place:])}
        (row,) = rows_of(tmp_path, {"txt": "t", **pictures})
        assert picture_of(row) == kind.encode()


def test_fields_are_kept_as_text(tmp_path: Path) -> None:
    fields = {"score": 0.5, "tags": ["ä"], "licence": "\ud800", "flag": True, "nothing": None}
    described = {"jpg": b"x", "txt": "t", "json": json.dumps(fields)}
    first, second = rows_of(tmp_path, described, {"jpg": b"x", "txt": "t"}, keep=list(fields))
    assert first.kept == {
        "score": "0.5", "tags": '["ä"]', "licence": "\ufffd", "flag": "true", "nothing": None
    }  # fmt: skip
    assert second.kept == dict.fromkeys(fields)
    source = tars([str(tmp_path / "x.tar")], keep=["flag"])
    assert [(field.name, field.type) for field in source.kept] == [("flag", pa.string())]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (["sha256"], "--keep-col sha256: .*manifest has already"),
        (["score", "score"], "kept once"),
        (["scores"], "--keep-col scores: .*found none of that name in the first 2; there are score, tag"),
    ],
)
def test_fields_that_cannot_be_kept(tmp_path: Path, keep: list[str], message: str) -> None:
    sample = {"jpg": b"x", "json": b'{"score": 1, "tag": 2}'}
    with pytest.raises(SourceError, match=message):
        rows_of(tmp_path, sample, {"jpg": b"x"}, keep=keep)


def test_folders_within_a_tar_belong_to_the_key_and_nothing_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("../a/1.jpg", "../a/1.txt", "/etc/1.jpg", "/etc/1.txt"):
            tar.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("b/1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("b/1.txt"))
    rows = list(tars([str(path)]))
    assert [row.problem is None for row in rows] == [True, True, False]
    assert "b/1: no picture" in (rows[2].problem or "")
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_tars_in_order_with_names_that_tell_them_apart(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for number in (1, 0):
            name = f"{folder}/{number:05d}.tar"
            write_tar(tmp_path / name, [{"__key__": "k", "jpg": b"x", "txt": name}])
    source = tars([str(tmp_path / "two"), f"{tmp_path}/one/{{00000..00001}}.tar"])
    assert [(row.source, row.source_row, row.caption) for row in source] == [
        (name, 0, name) for name in ("two/00000.tar", "two/00001.tar", "one/00000.tar", "one/00001.tar")
    ]
    assert [file.name for file in source.files] == [row.source for row in source]
    assert (source.records, source.stem) == (4, "00000")
    with pytest.raises(SourceError, match="each file once, found it twice"):
        tars([str(tmp_path / "two"), f"{tmp_path}/two/00000.tar"])


def test_mixed_splits_are_refused(tmp_path: Path) -> None:
    for name in ("train-0.tar", "val-0.tar"):
        write_tar(tmp_path / name, [])
    with pytest.raises(
        SourceError, match=r"`clipkit ingest tars \S+train-0.tar` and `\S+ ingest tars \S+val-0"
    ):
        tars([str(tmp_path)])


def test_every_tar_is_looked_at_before_any_is_hashed(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", [{"__key__": "k", "jpg": b"x" * 5000, "txt": "t"}])
    with (tmp_path / "2.tar").open("r+b") as stream:
        stream.truncate(3000)

    def never(*_: object) -> Any:
        raise AssertionError("hashing began")

    with pytest.raises(ClipkitError, match=r"2\.tar: expected 5,000 bytes of 'k\.jpg' at byte .*cut off"):
        tars([str(tmp_path)], progress=never)


DOWNLOAD: Sample = {"status": "failed_to_download"}
RESIZE: Sample = {"status": "failed_to_resize"}
FAILED: list[Sample] = [
    {"url": "http://h/1", "caption": "gone", "error_message": "HTTP Error 404: Not Found"} | DOWNLOAD,
    {"url": "http://h/2", "caption": None, "error_message": "timed out"} | DOWNLOAD,
    {"url": None, "caption": "no url", "error_message": "unknown url type: ''"} | DOWNLOAD,
    {"url": "http://h/3", "caption": "small", "error_message": "image too small"} | RESIZE,
]


def test_img2dataset_failures_follow_the_samples_of_their_tar(tmp_path: Path) -> None:
    good: list[Sample] = [
        {"url": f"http://h/g{number}", "caption": f"good {number}", "jpg": b"x"} for number in range(4)
    ]
    folder = tmp_path / "images"
    write_img2dataset(folder, 0, [FAILED[0], good[0], FAILED[1], FAILED[2], good[1]])
    write_img2dataset(folder, 1, [])
    write_img2dataset(folder, 2, [FAILED[3], good[2] | {"caption": None}])
    source = tars([str(folder)])
    assert [(row.source, row.source_row, row.url, row.caption, row.reason) for row in source] == [
        ("00000.tar", 0, "http://h/g0", "good 0", "bad_row"),
        ("00000.tar", 1, "http://h/g1", "good 1", "bad_row"),
        ("00000.parquet", 0, "http://h/1", "gone", "http_4xx"),
        ("00000.parquet", 2, "http://h/2", "", "timeout"),
        ("00000.parquet", 3, "", "no url", "bad_row"),
        ("00002.tar", 0, "http://h/g2", "", "bad_row"),
        ("00002.parquet", 0, "http://h/3", "small", "too_small"),
    ]
    problems = [row.problem for row in source]
    assert problems[:4] == [None, None, "img2dataset: HTTP Error 404: Not Found", "img2dataset: timed out"]
    assert source.records == 7
    assert [file.name for file in source.files] == [
        f"0000{number}.{ending}" for number in range(3) for ending in ("tar", "parquet")
    ]


def test_a_shard_that_img2dataset_did_not_finish(tmp_path: Path) -> None:
    path = write_img2dataset(tmp_path / "images", 0, [FAILED[0]])
    path.with_suffix(".parquet").write_bytes(b"PAR1")
    with pytest.raises(
        SourceError, match=r"00000\.parquet: .* belongs to 00000\.tar: if img2dataset was stopped"
    ):
        tars([str(path)])


def test_a_table_of_another_tar_is_refused(tmp_path: Path) -> None:
    good: list[Sample] = [{"url": f"http://h/{n}", "caption": str(n), "jpg": b"x"} for n in range(3)]
    path = write_img2dataset(tmp_path / "images", 0, [*good, FAILED[0]])
    other = write_img2dataset(tmp_path / "other", 0, [good[0], FAILED[1]])
    path.with_suffix(".parquet").write_bytes(other.with_suffix(".parquet").read_bytes())
    with pytest.raises(SourceError, match=r"a row for each sample of 00000\.tar, found 1 for 3 samples"):
        tars([str(path)])


def test_other_tables_beside_a_tar_are_left_alone(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [{"__key__": "k", "jpg": b"x", "txt": "t"}])
    pq.write_table(pa.table({"key": ["k"], "url": ["http://h"]}), tmp_path / "x.parquet")
    source = tars([str(path)])
    assert [row.url for row in source] == [""] and len(source.files) == 1


def test_a_dataset_of_clipkit_keeps_its_urls(small_dataset: Path) -> None:
    source = tars([str(small_dataset)])
    ours = ShardSet(small_dataset)
    assert source.records == len(ours) == 2160
    urls = [row["url"] for shard in ours.names for row in manifest(small_dataset / shard)]
    rows = list(source)
    assert [row.url for row in rows] == urls and urls[0] == "http://example.com/1"
    for place in (0, 999, 1000, 2159):
        sample = ours.read(*divmod(place, 1000))
        fetched = read_member(str(rows[place].file), *(rows[place].span or (0, 0)), 100_000)
        assert (rows[place].caption, fetched) == (sample.caption, Fetched(sample.image, None, 1))
    ours.close()


@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_a_shard_that_is_not_as_its_index_has_it_is_refused(
    small_dataset: Path, tmp_path: Path, ending: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small_dataset, copy)
    damaged = copy / f"000001.{ending}"
    damaged.chmod(0o644)
    if ending == "tar":
        with damaged.open("r+b") as stream:  # a letter of a caption, which nothing but the hash tells
            stream.seek(pq.read_table(copy / "000001.parquet")["caption_offset"][7].as_py())
            stream.write(b"X")
    else:
        pq.write_table(pq.read_table(damaged), damaged, compression="none")
    for source in (copy, copy / "000001.tar"):
        with pytest.raises(SourceError, match=r"000001\.tar: expected tar and manifest with the SHA-256"):
            tars([str(source)])
    (copy / "index.parquet").unlink()
    assert tars([str(copy / "000001.tar")]).records == 1000


def manifest(tar: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(tar.with_suffix(".parquet")).to_pylist()
    return rows


def test_a_manifest_of_another_tar_is_refused(small_dataset: Path, tmp_path: Path) -> None:
    for tar, table, message in (
        ("000000", "000002", "a row for each sample of x.tar, found 160 for 1,000 samples"),
        ("000000", "000001", "a row for each sample of x.tar, found '000001000' for '000000000'"),
    ):
        (tmp_path / "x.tar").write_bytes((small_dataset / f"{tar}.tar").read_bytes())
        (tmp_path / "x.parquet").write_bytes((small_dataset / f"{table}.parquet").read_bytes())
        with pytest.raises(SourceError, match=message):
            list(tars([str(tmp_path / "x.tar")]))
    (tmp_path / "x.parquet").unlink()
    assert [row.url for row in tars([str(tmp_path / "x.tar")])] == [""] * 1000


def test_a_picture_is_read_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(bytes(range(200)))
    assert read_member(str(path), 10, 3, 3) == Fetched(b"\x0a\x0b\x0c", None, 1)
    assert read_member(str(path), 10, 4, 3) == Failed("too_large", "more than 3 bytes")
    for offset, name, message in (
        (198, path, "found 2 of 3 bytes at 198; bring it back"),
        (0, tmp_path / "gone.tar", r"cannot be read \(No such file"),
        (0, tmp_path, r"cannot be read \(Is a directory"),
    ):
        with pytest.raises(SourceError, match=message):
            read_member(str(name), offset, 3, 3)


@given(st.lists(st.tuples(st.integers(0, 12_000), st.integers(0, 255)), max_size=6))
@settings(deadline=None)
def test_the_count_is_that_of_the_rows_for_any_tar(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.tar"
    sample = {"jpg": b"x", "txt": "t", "json": b'{"url": "u", "text": "t"}'}
    write_tar(path, ({"__key__": f"{number}", **sample} for number in range(3)))
    content = bytearray(path.read_bytes())
    for place, byte in changes:
        content[place % len(content)] = byte
    path.write_bytes(content)
    try:
        source = tars([str(path)])
    except ClipkitError as error:
        assert "\n" not in str(error)
    else:
        assert [row.source_row for row in source] == list(range(source.records))


def test_memory_does_not_grow_with_the_tars(tmp_path: Path) -> None:
    def measured(samples: int) -> tuple[Source, int]:
        path = tmp_path / f"{samples}.tar"
        members = ({"__key__": f"{n}", "jpg": b"x", "txt": "t" * 100} for n in range(samples))
        write_tar(path, members)
        tracemalloc.start()
        source = tars([str(path)])
        assert sum(1 for _ in source) == source.records == samples
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return source, peak

    measured(10)  # what is allocated once
    assert measured(4000)[1] < measured(1000)[1] + 100_000
