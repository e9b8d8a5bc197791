import hashlib
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipkit.errors import SourceError
from clipkit.ingest import list_files
from clipkit.ingest.list_files import identify_all
from clipkit.ingest.rows import UrlRow
from clipkit.ingest.sources import Source, chunks, refuse_mixed_splits, unique_names


@given(st.integers(0, 40), st.integers(1, 12))
def test_chunks_are_the_rows_in_order(count: int, size: int) -> None:
    rows = [UrlRow("list", number, "", "") for number in range(count)]
    cut = list(chunks(rows, size))
    assert [row for chunk in cut for row in chunk.rows] == rows
    assert [chunk.number for chunk in cut] == list(range(len(cut)))
    assert all(len(chunk.rows) == size for chunk in cut[:-1])


def test_names_tell_files_apart() -> None:
    assert unique_names([Path("/data/a.tsv"), Path("/data/b.tsv")]) == ["a.tsv", "b.tsv"]
    assert unique_names([Path("/x/one/a.tsv"), Path("/y/one/a.tsv")]) == ["x/one/a.tsv", "y/one/a.tsv"]
    with pytest.raises(SourceError, match="at least one"):
        unique_names([])


@pytest.mark.parametrize(
    ("name", "stem"), [("a/list.tsv", "list"), ("list.csv.gz", "list"), ("data", "data")]
)
def test_a_source_is_called_by_its_first_file(tmp_path: Path, name: str, stem: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    rows: list[UrlRow] = []
    assert Source(identify_all([path], [name]), 0, lambda: (row for row in rows)).stem == stem


def test_how_far_the_reading_of_large_files_is_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = {"a": bytes(2_500_000), "b": b"x" * 1_500_001}
    paths = [tmp_path / name for name in contents]
    for path in paths:
        path.write_bytes(contents[path.name])
    found = identify_all(paths, list(contents))
    assert capsys.readouterr().err == ""
    assert [(each.name, each.bytes, each.sha256) for each in found] == [
        (name, len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()
    ]
    monkeypatch.setattr(list_files, "_MUCH_BYTES", 4_000_000)
    assert identify_all(paths, list(contents)) == found
    assert capsys.readouterr().err == "check: 4 of 4 MB in 0 s\n"


def test_the_calls_to_make_stay_short() -> None:
    paths = [Path(f"train-{number}.parquet") for number in range(1000)]
    with pytest.raises(SourceError, match=r"ingest table train-0.parquet .* …` and .*val.parquet`") as raised:
        refuse_mixed_splits([*paths, Path("val.parquet")], "table")
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(("one", "other"), [("train", "val"), ("Training", "validation"), ("train", "valid")])
def test_the_sides_of_a_split_are_told_by_their_folders(one: str, other: str) -> None:
    with pytest.raises(SourceError, match="found training and validation files"):
        refuse_mixed_splits([Path(f"set/{one}/000000.tar"), Path(f"set/{other}/000000.tar")], "tars")
    refuse_mixed_splits([Path(f"set/{one}/{number}.tar") for number in range(2)], "tars")
    refuse_mixed_splits([Path(f"{one}ers/a.tar"), Path(f"{other}ues/a.tar")], "tars")


def test_a_stretch_ends_the_reading_by_itself() -> None:
    """Not the collector of garbage, in whose work a Ctrl-C would be lost."""
    ended = []

    def read() -> Generator[UrlRow]:
        try:
            for number in range(10):
                yield UrlRow("list", number, "", "")
        finally:
            ended.append(sys._getframe(1).f_code.co_name)

    assert [row.source_row for row in Source((), 10, read).stretch(2, 3)] == [2, 3, 4]
    assert ended == ["__exit__"]
