"""CSV and TSV as they are met: broken quotes, ragged rows, any bytes."""

import io
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipkit.ingest.rows import UrlRow
from clipkit.ingest.sources import Source
from clipkit.ingest.table_files import table_files
from clipkit.shards.csv_records import csv_records, csv_spans
from clipkit.shards.text_files import MAX_RECORD_BYTES


def opened(path: Path, content: bytes) -> Source:
    path.write_bytes(content)
    return table_files([path])


def test_broken_csv_records_are_kept_and_the_next_are_read(tmp_path: Path) -> None:
    content = (
        b'\xef\xbb\xbfurl,caption\r\n'
        b'http://h/0,"two\nlines, ""quoted"""\r\n'
        b"http://h/1\n"
        b"\n"
        b"http://h/3,a,b\n"
        b"http://h/4,nul \0 and caf\xe9\n"
        b"http://h/5," + b"x" * 200_000 + b"\n"
        b"http://h/6,bare \r return\n"
        b"http://h/7,last"
    )  # fmt: skip
    source = opened(tmp_path / "list.csv", content)
    rows = list(source)
    assert [row.source_row for row in rows] == list(range(8)) and source.records == 8
    assert [row.caption for row in rows if not row.problem] == [
        'two\nlines, "quoted"', "nul \0 and caf\ufffd", "last",
    ]  # fmt: skip
    problems = [row.problem or "" for row in rows]
    for number, problem in {1: "found 1", 2: "found 0", 3: "found 3", 5: "field", 6: "new-line"}.items():
        assert problem in problems[number] and rows[number].url == ""
    assert rows[3].caption == "http://h/3,a,b"


@pytest.mark.parametrize(
    "record", [b'http://h/x,"never closed', pytest.param(b'","\n' * 10, marks=pytest.mark.slow)]
)
def test_a_quote_that_is_never_closed_costs_a_bounded_piece(tmp_path: Path, record: bytes) -> None:
    good = b"http://h/1,fine\n"
    content = b"url,caption\n" + good + record + b"\n" + good * 60_000
    source = opened(tmp_path / "list.csv", content)
    tracemalloc.start()
    lost, good_rows, last = 0, 0, None
    for last in source:
        lost, good_rows = lost + bool(last.problem), good_rows + (last.problem is None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lost + good_rows == source.records and last == UrlRow(
        "list.csv", source.records - 1, "http://h/1", "fine"
    )
    assert lost <= 11 and good_rows > 60_000 - 20_000
    assert peak < 12_000_000


def test_a_quote_that_is_never_closed_costs_its_line_alone(tmp_path: Path) -> None:
    lines = ["http://h/0,fine", 'http://h/1,"open', 'http://h/2,"quoted, too"', 'http://h/3,"two', 'lines"',
             'http://h/4,"x" y', 'http://h/5,"open at the end']  # fmt: skip
    rows = list(opened(tmp_path / "list.csv", "\n".join(["url,caption", *lines]).encode()))
    assert [(row.url[-1:], row.caption) for row in rows if not row.problem] == [
        ("0", "fine"), ("2", "quoted, too"), ("3", "two\nlines"), ("4", "x y"),
    ]  # fmt: skip
    assert [row.caption for row in rows if row.problem] == [lines[1] + "\n", lines[6]]
    assert {row.problem for row in rows} == {None, "not CSV: a quote that is not closed"}


def test_a_quote_that_is_never_closed_costs_its_line_alone_among_thousands(tmp_path: Path) -> None:
    lines = [f"http://h/{number},picture number {number}" for number in range(9_000)]
    lines[100] = 'http://h/100,"cut off'
    rows = list(opened(tmp_path / "list.csv", "\n".join(["url,caption", *lines]).encode()))
    assert len(rows) == 9_000 and [row.source_row for row in rows if row.problem] == [100]


@given(st.text('a",\n\r', max_size=50))
def test_a_record_depends_on_nothing_before_it(text: str) -> None:
    spans = list(csv_spans(io.BytesIO(text.encode()), ","))
    assert [record for _, record in spans] == list(csv_records(io.BytesIO(text.encode()), ","))
    for number, (end, _) in enumerate(spans, 1):
        rest = csv_spans(io.BytesIO(text[end:].encode()), ",")
        assert [(end + later, record) for later, record in rest] == spans[number:]


def test_a_record_of_endless_lines_is_cut(tmp_path: Path) -> None:
    piece = b'","\n'  # each opens a quote where the last was closed: one record, however long
    source = opened(
        tmp_path / "list.csv", b'url,caption\n"\n' + piece * (MAX_RECORD_BYTES // 2) + b'"\nu,c\n'
    )
    rows = list(source)
    assert len(rows) == source.records
    assert "longer than" in (rows[0].problem or "")
    assert len(rows[0].caption) <= MAX_RECORD_BYTES + 10


def test_a_line_of_a_tsv_is_a_record_whatever_its_quotes(tmp_path: Path) -> None:
    captions = ['"open', '12" wide', '"Hello" he said', '"a ""b"""', '"tab\tinside"']
    content = "url\tcaption\n" + "".join(f"http://h/x\t{caption}\n" for caption in captions)
    rows = list(opened(tmp_path / "list.tsv", content.encode()))
    assert [row.caption for row in rows] == ['"open', '12" wide', '"Hello" he said', 'a "b"', "tab\tinside"]
