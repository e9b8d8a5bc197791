"""Tables of URLs in every form that people have them in, and the columns kept from them."""

import bz2
import csv
import gzip
import io
import json
import os
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipkit.errors import SourceError
from clipkit.ingest.sources import Source
from clipkit.ingest.table_files import table_files
from clipkit.shards.text_files import MAX_RECORD_BYTES

Columns = dict[str, list[Any]]
PAIRS: Columns = {"url": ["http://h/1", "https://h/2", "http://h/3"], "caption": ["a", "ü, b", 'the "c"']}


def csv_text(columns: Columns, delimiter: str = ",") -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return stream.getvalue().encode()


def json_lines(columns: Columns) -> bytes:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(columns: Columns | pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), stream)
    return stream.getvalue()


WRITERS: dict[str, Callable[[Columns], bytes]] = {
    "csv": csv_text,
    "tsv": lambda columns: csv_text(columns, "\t"),
    "jsonl": json_lines,
    "parquet": parquet,
    "csv.gz": lambda columns: gzip.compress(csv_text(columns)),
    "tsv.bz2": lambda columns: bz2.compress(csv_text(columns, "\t")),
    "jsonl.zst": lambda columns: bytes(pa.compress(json_lines(columns), "zstd", asbytes=True)),
}


def opened(path: Path, content: bytes, keep: Sequence[str] = ()) -> Source:
    path.write_bytes(content)
    return table_files([path], keep=keep)


@pytest.mark.parametrize("ending", WRITERS)
def test_every_form_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    source = opened(tmp_path / f"list.{ending}", WRITERS[ending](PAIRS))
    expected = [(number, url, PAIRS["caption"][number]) for number, url in enumerate(PAIRS["url"])]
    assert [(row.source_row, row.url, row.caption) for row in source] == expected
    assert {row.source for row in source} == {f"list.{ending}"} and source.records == 3
    assert source.stem == "list"
    assert source.files[0].bytes == (tmp_path / f"list.{ending}").stat().st_size


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_csv_may_have_another_separator(tmp_path: Path, separator: str) -> None:
    source = opened(tmp_path / "list.csv", csv_text(PAIRS, separator))
    assert [row.url for row in source] == PAIRS["url"] and source.records == 3
    assert [row.caption for row in source] == PAIRS["caption"]


@pytest.mark.parametrize("names", [
    ("SAMPLE_ID", "URL", "TEXT", "HEIGHT", "LICENSE", "NSFW"),  # LAION-400M
    ("uid", "url", "text", "original_width", "clip_b32_similarity_score"),  # DataComp
    ("id", "url", "text", "image_phash", "text_length"),  # COYO
    ("caption", "url"), ("image_url", "alt_text"), ("URL", "TEXT", "top_caption", "all_captions"),
])  # fmt: skip
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_usual_columns_are_found(tmp_path: Path, names: tuple[str, ...], ending: str) -> None:
    columns = {name: [f"value of {name}"] for name in names}
    (row,) = opened(tmp_path / f"list.{ending}", WRITERS[ending](columns))
    assert row.url.lower() in ("value of url", "value of image_url")
    assert row.caption.lower() in ("value of text", "value of caption", "value of alt_text")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("names", "option"),
    [
        (("link", "caption"), "--url-col"),
        (("url", "URL", "caption"), "--url-col"),
        (("url", "words"), "--caption-col"),
        (("url", "text", "caption"), "--caption-col"),
    ],
)
def test_missing_and_ambiguous_columns_are_listed(
    tmp_path: Path, names: tuple[str, ...], option: str, ending: str
) -> None:
    path = tmp_path / f"list.{ending}"
    with pytest.raises(SourceError, match=option) as raised:
        opened(path, WRITERS[ending]({name: ["x"] for name in names}))
    assert ", ".join(names) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("ending", WRITERS)
def test_names_that_are_no_utf_8(tmp_path: Path, ending: str) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9." + ending.encode())
    path.write_bytes(WRITERS[ending]({"url": ["http://h/1"], "caption": ["a"]}))
    (row,) = table_files([path])
    assert (row.source, row.url) == (f"caf\ufffd.{ending}", "http://h/1")


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(b"link,words,url,text\nhttp://h/1,a,x,y\n")
    (row,) = table_files([path], "link", "words")
    assert (row.url, row.caption) == ("http://h/1", "a")
    with pytest.raises(SourceError, match=r"'Link', found none among link, words, url, text"):
        table_files([path], "Link", "words")


def test_lists_are_no_captions(tmp_path: Path) -> None:
    table = pa.table({"url": ["http://h/1"] * 2, "text": [["a", "b"], None], "tags": [["x"], []]})
    lines = b'{"url": "http://h/1", "text": null}\n{"url": "http://h/2", "text": ["a", "b"]}\n'
    for name, content in (("list.parquet", parquet(table)), ("list.jsonl", lines)):
        with pytest.raises(SourceError, match="expected text in the column of captions, text, found lists"):
            opened(tmp_path / name, content)


def test_broken_json_records_are_kept(tmp_path: Path) -> None:
    lines = [
        '{"url": "http://h/0", "caption": "\\ud800 alone \\ud83d\\ude00"}', "{", "[1]",
        '{"caption": "no url"}', '{"url": "http://h/4"}', "[" * 100_000,
        '{"url": 5, "caption": ["a", null]}', "", '{"url": {"a": 1}, "caption": "b"}',
    ]  # fmt: skip
    source = opened(tmp_path / "list.jsonl", "\n".join(lines).encode() + b"\n")
    rows = list(source)
    assert source.records == len(rows) == 9
    assert [place for place, row in enumerate(rows) if not row.problem] == [0, 4]
    assert (rows[0].caption, rows[4].caption) == ("\ufffd alone \U0001f600", "")
    assert (rows[3].caption, rows[3].problem) == ("no url", "the URL is null")
    assert (rows[6].url, rows[6].caption, rows[8].url) == ("5", '["a", null]', '{"a": 1}')
    assert rows[6].problem == rows[8].problem == "a list or an object where a text is to be"


def test_parquet_values_of_any_kind(tmp_path: Path) -> None:
    bad = (
        pa.array([b"http://h/\xff", None, b"x" * (MAX_RECORD_BYTES + 1)]).cast(pa.binary()).view(pa.string())
    )
    table = pa.table(
        {
            "url": bad,
            "caption": pa.array(["a", "b", None]).dictionary_encode(),
            "similarity": pa.array([0.1, None, 2], pa.float32()),
            "id": pa.array([1, 2**64 - 1, None], pa.uint64()),
            "tags": [["x", "y"], [], None],
        }
    )
    source = opened(tmp_path / "list.parquet", parquet(table), keep=["similarity", "id", "tags"])
    assert [(field.name, str(field.type)) for field in source.kept] == [
        ("similarity", "float"), ("id", "uint64"), ("tags", "string"),
    ]  # fmt: skip
    rows = list(source)
    assert (rows[0].url, rows[0].caption) == ("http://h/\ufffd", "a")
    assert rows[0].kept == {"similarity": pytest.approx(0.1), "id": 1, "tags": '["x", "y"]'}
    assert (rows[1].problem, rows[1].caption) == ("the URL is null", "b")
    assert "longer than" in (rows[2].problem or "")


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "binary"])
def test_text_of_every_parquet_type(tmp_path: Path, kind: str) -> None:
    wide = getattr(pa, kind)()
    table = pa.table(
        {
            "url": pa.array(["http://h/1"]).cast(wide),
            "text": pa.array(["ü"]).cast(wide),
            "day": pa.array([date(2024, 2, 3)]),
            "price": pa.array([Decimal("1.50")]),
            "note": pa.array(["«»"]).cast(wide),
        }
    )
    (row,) = opened(tmp_path / "list.parquet", parquet(table), keep=["day", "price", "note"])
    assert (row.url, row.caption) == ("http://h/1", "ü")
    assert row.kept == {"day": "2024-02-03", "price": "1.50", "note": "«»"}


def test_not_a_number_is_no_caption(tmp_path: Path) -> None:
    line = b'{"url": "http://h/1", "text": NaN, "score": NaN}\n'  # as Python writes pandas' missing values
    (row,) = opened(tmp_path / "list.jsonl", line, keep=["score"])
    assert (row.caption, row.problem, row.kept) == ("", None, {"score": None})
    table = pa.table({"url": ["http://h/1", "http://h/2"], "text": [1.5, float("nan")]})
    rows = list(opened(tmp_path / "list.parquet", parquet(table)))
    assert [row.caption for row in rows] == ["1.5", ""]


def test_times_that_python_has_no_room_for(tmp_path: Path) -> None:
    table = pa.table(
        {
            "url": ["http://h/1"],
            "text": ["a"],
            "seen": pa.array([1_234_567_891_234_567_891], pa.timestamp("ns")),
            "early": pa.array([-(2**56)], pa.timestamp("us", "UTC")),
            "day": pa.array([2**30], pa.date32()),
            "took": pa.array([1], pa.duration("ns")),
            "days": pa.array([[2**30]], pa.list_(pa.date32())),
        }
    )
    (row,) = opened(tmp_path / "list.parquet", parquet(table), keep=["seen", "early", "day", "took"])
    assert row.kept and row.kept["seen"] == "2009-02-13 23:31:31.234567891"
    assert row.kept["early"].startswith("-") and "1073741824" in row.kept["day"]
    assert row.kept["took"] == "1"
    with pytest.raises(SourceError, match=r"others among url, text, days \(.*must have magnitude.*to text"):
        list(opened(tmp_path / "list.parquet", parquet(table), keep=["days"]))


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    content = parquet({"url": [f"http://h/{n}" for n in range(5000)], "text": ["x" * 50] * 5000})
    path = tmp_path / "list.parquet"
    for broken in (content[:-100], b"PAR1", b"text", content.replace(b"text", b"t\xffxt")):
        with pytest.raises(
            SourceError, match=r"list\.parquet: expected a Parquet file, found .*; fetch it again"
        ):
            opened(path, broken)
    source = opened(path, content[:200] + b"\xff" * 20_000 + content[20_200:])
    with pytest.raises(
        SourceError, match=r"list\.parquet: expected a Parquet file, found .*; fetch it again"
    ):
        list(source)


def test_a_directory_stands_for_its_tables_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "metadata"
    folder.mkdir()
    for number in (2, 0, 1):
        columns = {"url": [f"http://h/{number}"], "text": ["x"]}
        (folder / f"part-{number}.parquet").write_bytes(parquet(columns))
    (folder / "_SUCCESS").write_bytes(b"")
    (folder / ".part-9.parquet").write_bytes(b"")
    source = table_files([folder])
    assert [row.url for row in source] == ["http://h/0", "http://h/1", "http://h/2"]
    assert [row.source for row in source] == [f"part-{number}.parquet" for number in range(3)]
    assert (source.records, source.stem) == (3, "part-0")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"empty: expected files ending in \.csv"):
        table_files([tmp_path / "empty"])


def test_files_named_together_are_read_in_that_order(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"URL,TEXT\nhttp://h/0,a\nhttp://h/1,b\n")
    (tmp_path / "a.jsonl").write_bytes(b'{"caption": "c", "image_url": "http://h/2"}\n')
    source = table_files([tmp_path / "b.csv", tmp_path / "a.jsonl"])
    assert [(row.source, row.source_row, row.url, row.caption) for row in source] == [
        ("b.csv", 0, "http://h/0", "a"),
        ("b.csv", 1, "http://h/1", "b"),
        ("a.jsonl", 0, "http://h/2", "c"),
    ]
    assert (source.records, source.stem, len(source.files)) == (3, "b", 2)


def test_kept_columns_have_names_of_their_own_and_one_type(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    content = parquet({"url": ["u"], "TEXT": ["t"], "width": [1], "score": [0.5]})
    assert [row.kept for row in opened(path, content, keep=["score", "TEXT"])] == [
        {"score": 0.5, "TEXT": "t"}
    ]
    for keep, message in (
        (["width"], "--keep-col width: .*manifest has already"),
        (["reason"], "manifest has already"),
        (["score", "score"], "kept once"),
        (["missing"], "'missing', found none among url, TEXT, width, score"),
    ):
        with pytest.raises(SourceError, match=message):
            opened(path, content, keep=keep)
    (tmp_path / "b.csv").write_bytes(b"url,text,score\nu,t,0.5\n")
    with pytest.raises(SourceError, match=r"b\.csv: expected score as double .*found string"):
        table_files([path, tmp_path / "b.csv"], keep=["score"])


def test_what_is_no_table_gets_one_line(tmp_path: Path) -> None:
    for name, content, message in (
        ("list.txt", b"x", r"expected a name ending in \.csv"),
        ("list", b"x", "found none"),
        ("list.parquet.gz", b"x", "unpack it"),
        ("list.csv", b"", "empty file"),
        ("list.jsonl", b"", "empty file"),
        ("list.jsonl", b"url\n", "not JSON"),
        ("list.csv.gz", b"url,caption\n", "cannot be read"),
        ("list.csv", b"\r\nurl,caption\nx,y\n", "found an empty line"),
        ("list.tsv", b"\nurl\tcaption\n", "found an empty line"),
        ("list.csv", "url,caption\r\nx,y\r\n".encode("utf-16"), "found UTF-16"),
        ("list.tsv", "url\tcaption\n".encode("utf-16"), "found UTF-16"),
        ("list.tsv", "url\tcaption\n".encode("utf-16-le"), "found zero bytes"),
        ("list.jsonl", '{"url": "x"}\n'.encode("utf-16"), "found UTF-16"),
        ("list.jsonl", '{"url": "x"}\n'.encode("utf-16-le"), "found zero bytes"),
        ("list.csv", gzip.compress(b"url,caption\n"), "found zero bytes"),
        ("list.csv", b"http://h/1,a\nhttp://h/2,b\n", "found a URL in its first line; put"),
    ):
        with pytest.raises(SourceError, match=message) as raised:
            opened(tmp_path / name, content)
        assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)
    for name in ("missing.parquet", "missing"):
        with pytest.raises(SourceError, match="No such file"):
            table_files([tmp_path / name])


TEXT = st.text(max_size=20).filter(lambda text: "\r" not in text)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=20))
def test_what_a_csv_writer_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "list.csv"
    content = csv_text({"url": [url for url, _ in pairs], "text": [text for _, text in pairs]})
    source = opened(path, content)
    assert [(row.url, row.caption) for row in source] == [(url.strip(), text) for url, text in pairs]
    assert source.records == len(pairs)


@given(st.binary(max_size=300), st.sampled_from(["csv", "tsv", "jsonl"]))
def test_the_count_is_that_of_the_rows_for_any_bytes(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, ending: str
) -> None:
    begin = {"csv": b"url,text\n", "tsv": b"url\ttext\n", "jsonl": b'{"url": "u", "text": "t"}\n'}[ending]
    source = opened(tmp_path_factory.mktemp("any") / f"list.{ending}", begin + content)
    assert [row.source_row for row in source] == list(range(source.records))


@pytest.mark.parametrize(
    "ending",
    ["csv", "parquet", *(pytest.param(each, marks=pytest.mark.slow) for each in ("tsv", "jsonl", "csv.gz"))],
)
def test_memory_does_not_grow_with_a_table(tmp_path: Path, ending: str) -> None:
    columns: Columns = {"url": [f"http://h/{n}" for n in range(40_000)], "text": ["x" * 60] * 40_000}
    source = opened(tmp_path / f"list.{ending}", WRITERS[ending](columns))
    tracemalloc.start()
    arrow = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() for row in source if row.source_row % 1000 == 500) - arrow
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.records == 40_000
    assert peak < 2_500_000 and most < 2_500_000
