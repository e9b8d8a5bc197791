"""OpenAI's subset of YFCC100M beside the metadata in each of its forms."""

import bz2
import os
import random
import sqlite3
import subprocess
import sys
import tracemalloc
from contextlib import closing
from pathlib import Path
from urllib.parse import quote_plus

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipkit.errors import DatasetError, NetworkError, SourceError
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.rows import UrlRow
from clipkit.ingest.run import ingest
from clipkit.ingest.sources import Source
from clipkit.ingest.yfcc import plain, yfcc
from tests.conftest import disk_of

NAMES = [
    *("photoid", "uid", "unickname", "datetaken", "dateuploaded", "capturedevice", "title", "description"),
    *(
        "usertags",
        "machinetags",
        "longitude",
        "latitude",
        "accuracy",
        "pageurl",
        "downloadurl",
        "licensename",
    ),
    *("licenseurl", "serverid", "farmid", "secret", "secretoriginal", "ext", "marker"),
]
TITLES = {0: "A cat", 1: 'Tom & "Jerry"', 2: "", 3: "moving", 5: "Zürich"}
DESCRIPTIONS = {
    0: "",
    1: 'see <a href="http://x/" rel="nofollow">this</a> &amp; that\nand &lt;3',
    2: "only this",
}
VIDEO = 3


def photo(line: int) -> int:
    return 1_000_000_000 - 7 * line


def digest(line: int) -> str:
    return f"{line * 7919:032x}"


def columns(line: int) -> dict[str, str]:
    """The columns of NAMES as the metadata has them."""
    known = {
        "photoid": str(photo(line)),
        "title": quote_plus(TITLES.get(line, f"photo {line}")),
        "description": quote_plus(DESCRIPTIONS.get(line, "")),
        "downloadurl": f"http://h/{line}.jpg",
        "marker": "1" if line == VIDEO else "0",
    }
    return {name: known.get(name, "x") for name in NAMES}


def text_line(line: int) -> str:
    values = list(columns(line).values())
    return "\t".join([str(line), values[0], digest(line), *values[1:]]) + "\n"


def write_text(path: Path, lines: list[int]) -> Path:
    content = "".join(map(text_line, lines)).encode()
    path.write_bytes(bz2.compress(content) if path.suffix == ".bz2" else content)
    return path


def write_sqlite(path: Path, lines: list[int], key: str = "INTEGER PRIMARY KEY") -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE yfcc100m_dataset (photoid {key}, {', '.join(NAMES[1:])})")
        marks = ", ".join("?" * len(NAMES))
        rows = [tuple(columns(line).values()) for line in lines]
        connection.executemany(f"INSERT INTO yfcc100m_dataset VALUES ({marks})", rows)
        connection.commit()
    return path


def subset_line(line: int) -> str:
    return f"{line}\t{photo(line)}\t{digest(line)}"


def write_subset(path: Path, records: list[str]) -> Path:
    path.write_text("".join(record + "\n" for record in records))
    return path


@pytest.fixture(params=["yfcc100m_dataset", "yfcc100m_dataset.bz2", "yfcc100m_dataset.sql"])
def metadata(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Twenty photos but for line 4, which is not there."""
    lines = [line for line in range(20) if line != 4]
    path = tmp_path / str(request.param)
    return write_sqlite(path, lines) if path.suffix == ".sql" else write_text(path, lines)


def by_record(source: Source) -> dict[int, UrlRow]:
    rows = {row.source_row: row for row in source}
    assert len(rows) == source.records == sum(1 for _ in source), "each record is one row"
    return rows


def test_each_record_finds_its_photo(tmp_path: Path, metadata: Path) -> None:
    records = [subset_line(line) for line in (0, 1, 2, 3, 4, 5, 5, 19)]
    records[2:2] = ["not a record", ""]
    subset = write_subset(tmp_path / "subset.tsv", records)
    rows = by_record(yfcc(subset, metadata))
    assert {number: (row.url, row.caption) for number, row in rows.items() if not row.problem} == {
        0: ("http://h/0.jpg", "A cat"),
        1: ("http://h/1.jpg", 'Tom & "Jerry" see this & that and <3'),
        4: ("http://h/2.jpg", "only this"),
        7: ("http://h/5.jpg", "Zürich"),
        8: ("http://h/5.jpg", "Zürich"),
        9: ("http://h/19.jpg", "photo 19"),
    }
    problems = {number: row.problem for number, row in rows.items() if row.problem}
    assert problems.pop(5) == "a video" and "not in the metadata" in (problems.pop(6) or "")
    assert problems == dict.fromkeys((2, 3), "expected line number, photo id and hash")
    assert rows[6].caption == subset_line(4)
    assert list(rows) == sorted(rows), "in the subset's order"


@pytest.mark.parametrize(
    ("caption", "text"), [("title", 'Tom & "Jerry"'), ("description", "see this & that and <3")]
)
def test_the_caption_is_what_was_asked_for(tmp_path: Path, metadata: Path, caption: str, text: str) -> None:
    subset = write_subset(tmp_path / "subset.tsv", [subset_line(1)])
    (row,) = yfcc(subset, metadata, caption)
    assert row.caption == text


def test_the_mirror_is_addressed_by_the_hash(tmp_path: Path, metadata: Path) -> None:
    subset = write_subset(tmp_path / "subset.tsv", [subset_line(19)])
    source = yfcc(subset, metadata, mirror=True)
    name = digest(19)
    (row,) = source
    assert row.url == (
        f"https://multimedia-commons.s3-us-west-2.amazonaws.com/data/images/{name[:3]}/{name[3:6]}/{name}.jpg"
    )
    assert source.reading == {"kind": "yfcc", "caption": "both", "mirror": True}
    assert [file.name for file in source.files] == ["subset.tsv", metadata.name]


@pytest.mark.parametrize("mirror", [False, True])
def test_a_subset_in_no_order_finds_the_same(tmp_path: Path, metadata: Path, mirror: bool) -> None:
    records = [subset_line(line) for line in (*range(20), 7, 99)] + ["ragged\t1"]
    random.Random(0).shuffle(records)
    shuffled = write_subset(tmp_path / "shuffled.tsv", records)
    rows = by_record(yfcc(shuffled, metadata, mirror=mirror))
    assert sum(row.problem is None for row in rows.values()) == 20 + 1 - len({VIDEO, 4})
    for number, row in rows.items():
        line = records[number].split("\t")[0]
        if row.problem:
            assert line in ("3", "4", "99", "ragged")
        else:
            assert row.url.endswith(f"{digest(int(line))}.jpg" if mirror else f"/{line}.jpg")


def test_a_limit_takes_the_first_records_of_a_subset_in_no_order(tmp_path: Path, metadata: Path) -> None:
    lines = list(range(20))
    random.Random(0).shuffle(lines)
    subset = write_subset(tmp_path / "shuffled.tsv", [subset_line(line) for line in lines])
    source = yfcc(subset, metadata)
    for first, records, expected in ((0, 5, range(5)), (5, 10, range(5, 15)), (15, 99, range(15, 20))):
        rows = {row.source_row: row for row in source.stretch(first, records)}
        assert sorted(rows) == list(expected)
        assert all(row.problem or row.url == f"http://h/{lines[number]}.jpg" for number, row in rows.items())


def test_what_is_tried_first_of_a_subset_in_no_order_does_not_wait_for_all_of_the_metadata(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [1999, *range(1, 1999), 0]
    subset = write_subset(tmp_path / "shuffled.tsv", [subset_line(line) for line in lines])
    metadata = tmp_path / "yfcc100m_dataset"
    metadata.write_text("".join(map(text_line, range(1500))) + text_line(3))  # not in order, behind the first
    source = yfcc(subset, metadata)
    assert "shuffled.tsv is not in order of its line numbers" in capsys.readouterr().err
    with pytest.raises(SourceError, match="found 3 after 1499"):
        list(source.stretch(0, 1000))
    config = IngestConfig(proxy="http://127.0.0.1:9", workers=1)
    with pytest.raises(NetworkError, match="expected a proxy"):
        ingest(source, tmp_path / "out", config)


def test_a_larger_limit_takes_the_next_records_of_a_subset_in_no_order(tmp_path: Path) -> None:
    lines = [7, 3, 9, 0, 8, 1, 2]
    subset = write_subset(tmp_path / "shuffled.tsv", [subset_line(line) for line in lines])
    metadata = tmp_path / "yfcc100m_dataset"
    metadata.write_text("".join(map(text_line, range(10))).replace("http://h", "ftp://h"))
    for limit in (2, 5, None):
        with pytest.raises(DatasetError, match=f"none of {limit or 7} URLs gave a sample"):
            ingest(yfcc(subset, metadata), tmp_path / "out", IngestConfig(limit=limit, workers=1))
        failures = pq.read_table(tmp_path / "out" / "failures").to_pylist()
        found = {row["source_row"]: row["url"] for row in failures}
        assert found == {number: f"ftp://h/{line}.jpg" for number, line in enumerate(lines[:limit])}


def test_metadata_that_does_not_fit(tmp_path: Path) -> None:
    subset = write_subset(tmp_path / "subset.tsv", [subset_line(line) for line in range(4)])
    lines = [
        text_line(0),
        "1\tshort\n",
        text_line(2).replace(str(photo(2)), "17"),
        "no number\tx\n",
        text_line(3).replace(digest(3), digest(4)),
    ]
    metadata = tmp_path / "yfcc100m_dataset"
    metadata.write_text("".join(lines))
    problems = [row.problem or "" for row in yfcc(subset, metadata)]
    assert problems[0] == "" and "2 columns" in problems[1] and "is photo 17" in problems[2]
    assert problems[3] == f"line 3 of the metadata has the hash {digest(4)}, not {digest(3)}"
    write_subset(subset, [subset_line(3), subset_line(0)])
    assert [row.problem for row in yfcc(subset, metadata)] == [
        None,
        f"line 3 of the metadata has the hash {digest(4)}, another than the subset's",
    ]
    metadata.write_text(text_line(2) + text_line(1))
    with pytest.raises(SourceError, match="in order of their numbers, found 1 after 2"):
        list(yfcc(subset, metadata))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "an empty file"),
        (subset_line(0) + "\n", "3 in '0"),
        (text_line(0).partition("\t")[2], "24 in '"),
        (text_line(0).rpartition("\t")[0] + "\n", "24 in '0"),
    ],
)
def test_another_file_than_the_metadata_is_refused(tmp_path: Path, content: str, found: str) -> None:
    subset = write_subset(tmp_path / "subset.tsv", [subset_line(0)])
    metadata = tmp_path / "yfcc100m_dataset.bz2"
    metadata.write_bytes(bz2.compress(content.encode()))
    with pytest.raises(SourceError, match=f"expected lines of 25 columns.*found {found}"):
        yfcc(subset, metadata)


def test_a_database_that_does_not_fit(tmp_path: Path) -> None:
    subset = write_subset(tmp_path / "subset.tsv", [subset_line(0)])
    database = tmp_path / "yfcc100m_dataset.sql"
    database.write_bytes(b"SQLite format 3\0" + b"\xff" * 1000)
    with pytest.raises(SourceError, match=r"yfcc100m_dataset\.sql: expected the SQLite table"):
        yfcc(subset, database)
    slow = write_sqlite(tmp_path / os.fsdecode(b"slow \xe9%.sql"), [0], key="INTEGER")
    with pytest.raises(SourceError, match="CREATE INDEX"):
        yfcc(subset, slow)
    with closing(sqlite3.connect(slow)) as connection:
        connection.execute("CREATE INDEX photo ON yfcc100m_dataset (photoid)")
    assert [row.caption for row in yfcc(subset, slow)] == ["A cat"]


def test_what_is_no_subset_is_refused(tmp_path: Path) -> None:
    metadata = write_text(tmp_path / "yfcc100m_dataset", [0])
    for content, found in ((["url\tcaption"], r"url\\tcaption"), ([], "empty file")):
        with pytest.raises(SourceError, match=found):
            yfcc(write_subset(tmp_path / "subset.tsv", content), metadata)
    (tmp_path / "subset.tsv").write_bytes(subset_line(0).encode("utf-16"))
    with pytest.raises(SourceError, match="found UTF-16"):
        yfcc(tmp_path / "subset.tsv", metadata)
    with pytest.raises(SourceError, match="No such file"):
        yfcc(tmp_path / "missing.tsv", metadata)


PIECES = st.sampled_from([b"0", b"7", b"999999999", b"\t", b"\n", b"\xff", b"a" * 32, text_line(3).encode()])


@given(st.lists(PIECES, max_size=30), st.lists(PIECES, max_size=30))
def test_the_count_is_that_of_the_rows_for_any_bytes(
    tmp_path_factory: pytest.TempPathFactory, subset: list[bytes], metadata: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "subset.tsv").write_bytes(subset_line(3).encode() + b"\n" + b"".join(subset))
    (folder / "yfcc100m_dataset").write_bytes(text_line(0).encode() + b"".join(metadata))
    source = yfcc(folder / "subset.tsv", folder / "yfcc100m_dataset")
    try:
        rows = [row.source_row for row in source]
    except SourceError as error:
        assert "in order of their numbers" in str(error)
    else:
        assert sorted(rows) == list(range(source.records))


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        ("a+b%2Bc", "a b+c"),
        ("1+%3C+2+and+3+%3E+2", "1 < 2 and 3 > 2"),
        ("%3Cb%3Ebold%3C%2Fb%3E%3Cbr%2F%3Enext", "bold next"),
        ("&amp;quot%3B", "&quot;"),
        ("%FF%00", "\ufffd\0"),
        ("%3Ca+" * 2000, "<a " * 1999 + "<a"),
    ],
)
def test_plain_text(encoded: str, text: str) -> None:
    assert plain(encoded) == text


@pytest.mark.slow
@pytest.mark.parametrize("in_order", [True, False])
def test_memory_does_not_grow_with_the_subset(tmp_path: Path, in_order: bool) -> None:
    lines = list(range(20_000))
    metadata = write_text(tmp_path / "yfcc100m_dataset", lines)
    listed = [subset_line(line) for line in lines]
    if not in_order:
        random.Random(0).shuffle(listed)
    source = yfcc(write_subset(tmp_path / "subset.tsv", listed), metadata)
    tracemalloc.start()
    assert sum(row.problem is None for row in source) == 19_999
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000 < metadata.stat().st_size


def test_a_full_disk_under_temporary_files_is_one_line(tmp_path: Path) -> None:
    lines = list(range(5_000))
    metadata = write_text(tmp_path / "yfcc100m_dataset", lines)
    subset = write_subset(tmp_path / "subset.tsv", [subset_line(line) for line in reversed(lines)])
    words = ["ingest", "yfcc", str(subset), "--metadata", str(metadata), "--out", str(tmp_path / "out")]
    with disk_of("64k", tmp_path / "disk") as disk:
        done = subprocess.run(
            [sys.executable, "-m", "clipkit", *words, "--allow-private-hosts"],
            env=os.environ | {"TMPDIR": str(disk)},
            capture_output=True,
            text=True,
            check=False,
        )
    told = f"clipkit: {disk}: expected room for the subset's records, to sort them, found the disk full; make"
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(told), done.stderr
