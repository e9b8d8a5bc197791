import os
import tempfile
import tracemalloc
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipkit.errors import SourceError
from clipkit.ingest.conceptual_captions import conceptual_captions
from clipkit.ingest.rows import UrlRow
from clipkit.ingest.sources import chunks

GOOD = b"a dog\thttp://example.com/dog.jpg\n"


def listed(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [b"a dog\thttp://h/1.jpg\na cat\thttps://h/2.jpg\n", b"http://h/1.jpg\ta dog\nhttps://h/2.jpg\ta cat"],
)
def test_the_3m_and_12m_forms_are_told_apart(tmp_path: Path, content: bytes) -> None:
    path = listed(tmp_path / "list.tsv", content)
    source = conceptual_captions([path])
    assert list(source) == [
        UrlRow("list.tsv", 0, "http://h/1.jpg", "a dog"),
        UrlRow("list.tsv", 1, "https://h/2.jpg", "a cat"),
    ]
    assert source.records == 2
    (file,) = source.files
    assert (file.name, file.bytes, file.sha256) == ("list.tsv", len(content), sha256(content).hexdigest())


def test_nothing_is_special_inside_a_caption(tmp_path: Path) -> None:
    captions = [
        '"quoted, never closed',
        "back\\tslash",
        "line\u2028separator",
        "\r in the middle",
        "nul \0",
        "  ",
    ]
    content = "".join(f"{caption}\thttp://h/x.jpg\r\n" for caption in captions)
    rows = list(conceptual_captions([listed(tmp_path / "list.tsv", content.encode())]))
    assert [row.caption for row in rows] == captions
    assert {row.url for row in rows} == {"http://h/x.jpg"}


def test_ragged_and_undecodable_records_are_kept(tmp_path: Path) -> None:
    content = (
        GOOD + b"\n" + b"only a caption\n" + b"a\tb\tc\n" + b"caf\xe9\thttp://h/x.jpg\n" + b"\thttp://h/y"
    )
    rows = list(conceptual_captions([listed(tmp_path / "list.tsv", content)]))
    ragged = "expected 2 columns, found {}".format
    assert [row.problem for row in rows] == [None, ragged(1), ragged(1), ragged(3), None, None]
    assert rows[3].caption == "a\tb\tc"
    assert rows[4].caption == "caf\ufffd"
    assert (rows[5].caption, rows[5].url) == ("", "http://h/y")


@given(st.lists(st.binary().filter(lambda record: b"\n" not in record), max_size=20), st.booleans())
def test_every_line_is_one_row(records: list[bytes], ends_with_newline: bool) -> None:
    content = GOOD + b"\n".join(records) + (b"\n" if ends_with_newline and records else b"")
    expected = content.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    with tempfile.TemporaryDirectory() as folder:
        source = conceptual_captions([listed(Path(folder) / "list.tsv", content)])
        rows = list(source)
    assert source.records == len(rows) == len(expected)
    for number, (row, record) in enumerate(zip(rows, expected, strict=True)):
        text = record.removesuffix(b"\r").decode("utf-8", "replace")
        assert row.source_row == number
        if row.problem:
            assert (row.url, row.caption) == ("", text)
        else:
            caption, url = text.split("\t")
            assert (row.url, row.caption) == (url.strip(), caption)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = listed(tmp_path / "list.tsv", b"\xef\xbb\xbfhttp://h/1.jpg\ta dog\n")
    assert next(iter(conceptual_captions([path]))).url == "http://h/1.jpg"


def test_memory_does_not_grow_with_the_list(tmp_path: Path) -> None:
    path = listed(tmp_path / "list.tsv", GOOD * 100_000)
    tracemalloc.start()
    count = sum(len(chunk.rows) for chunk in chunks(conceptual_captions([path]), 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 100_000
    assert peak < 2_500_000 < path.stat().st_size


def test_several_files_are_one_source_with_names_of_their_own(tmp_path: Path) -> None:
    paths = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        paths.append(listed(tmp_path / folder / "list.tsv", GOOD + GOOD))
    source = conceptual_captions(paths)
    assert [file.name for file in source.files] == ["one/list.tsv", "two/list.tsv"]
    places = [(row.source, row.source_row) for row in source]
    assert places == [("one/list.tsv", 0), ("one/list.tsv", 1), ("two/list.tsv", 0), ("two/list.tsv", 1)]
    assert source.records == 4


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty file"),
        (b"caption\turl\nx\ty\n", r"caption\\turl"),
        (b"http://only.one/column\n", "http://only.one/column"),
        (b"PK\x03\x04" + b"\0" * 500, "found zero bytes"),
        ("a\thttp://h/1\n".encode("utf-16"), "found UTF-16"),
        (b"http://h/1\thttp://h/2\nx\ty\n", "as many in both, 1 each in the first 2 lines"),
    ],
)
def test_what_is_no_list_gets_one_line(tmp_path: Path, content: bytes, found: str) -> None:
    with pytest.raises(SourceError, match=found) as raised:
        conceptual_captions([listed(tmp_path / "list.tsv", content)])
    assert str(tmp_path / "list.tsv") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_and_one_given_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"missing\.tsv: .*No such file"):
        conceptual_captions([tmp_path / "missing.tsv"])
    with pytest.raises(SourceError, match="Is a directory"):
        conceptual_captions([tmp_path])
    path = listed(tmp_path / "list.tsv", GOOD)
    with pytest.raises(SourceError, match="each file once"):
        conceptual_captions([path, path])
    (tmp_path / "link.tsv").symlink_to(path)
    for other in (tmp_path / "link.tsv", tmp_path / ".." / tmp_path.name / "list.tsv"):
        with pytest.raises(SourceError, match=r"each file once, found it twice, as \S+list\.tsv too"):
            conceptual_captions([path, other])


def test_training_and_validation_files_do_not_mix(tmp_path: Path) -> None:
    train = listed(tmp_path / "Train_GCC-training.tsv", GOOD)
    validation = listed(tmp_path / "Validation_GCC-1.1.0-Validation.tsv", GOOD)
    other = listed(tmp_path / "retrieval.tsv", GOOD)
    with pytest.raises(SourceError) as raised:
        conceptual_captions([train, validation])
    assert f"`clipkit ingest cc {train}` and `clipkit ingest cc {validation}`" in str(raised.value)
    assert conceptual_captions([train, other]).records == 2


@pytest.mark.parametrize("writers", [0, 1])
def test_a_pipe_is_refused_and_not_waited_for(writers: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tsv")
    opened = [os.open(tmp_path / "pipe.tsv", os.O_RDWR) for _ in range(writers)]
    with pytest.raises(SourceError, match="found a pipe"):
        conceptual_captions([tmp_path / "pipe.tsv"])
    for writer in opened:
        os.close(writer)


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.tsv"))
    path.write_text("a caption\thttp://example.com/1.jpg\n")
    assert [row.source for row in conceptual_captions([path])] == ["bad\ufffd.tsv"]
