"""Pictures that a CSV lists, read as shards are: the same samples and order as the dataset made of it."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clipkit.errors import DatasetError, SourceError
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.local_files import local_files
from clipkit.ingest.run import ingest
from clipkit.shards import csv_set
from clipkit.shards.csv_set import CsvSet
from clipkit.shards.loader import batches
from clipkit.shards.shard_files import SampleError
from clipkit.shards.shard_set import MAX_PICTURE_BYTES, Sample, ShardSet
from tests.conftest import picture
from tests.datasets import everything

Table = Callable[..., Path]
MADE = 7


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Write TABLE with these records, beside a folder of seven pictures."""
    (tmp_path / "pictures").mkdir()
    for number in range(MADE):
        (tmp_path / "pictures" / f"{number}.jpg").write_bytes(picture(number))

    def write(records: list[str], header: str = "filepath\ttitle", name: str = "train.csv") -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in [header, *records]), encoding="utf-8")
        return path

    return write


def record(number: int, separator: str = "\t") -> str:
    return f"pictures/{number % MADE}.jpg{separator}caption {number}"


def pixels(image: bytes, key: int) -> np.ndarray:
    """The bytes themselves, and the key."""
    head = np.frombuffer(image[:600] + (key % 2**64).to_bytes(8, "big"), np.uint8)
    return np.resize(head, (3, 4, 50))


def tokens(captions: list[str]) -> np.ndarray:
    return np.array([[*caption.encode()[-4:]] for caption in captions], np.int64)


def test_there_is_no_row_before_the_first_nor_after_the_last(table: Table, tiny_dataset: Path) -> None:
    for data in (CsvSet(table([record(number) for number in range(64)])), ShardSet(tiny_dataset)):
        for shard, row in ((0, -1), (0, 64), (-1, 0), (1, 0)):
            with pytest.raises(IndexError):
                data.read(shard, row)


def test_a_relative_path_holds_when_the_program_goes_elsewhere(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table([record(0)])
    monkeypatch.chdir(tmp_path)
    opened = CsvSet(path.name)
    monkeypatch.chdir("/")
    assert everything(pickle.loads(pickle.dumps(opened))) == everything(
        CsvSet(path)
    )  # as a loader process has it


def test_the_stream_is_that_of_the_dataset_that_ingest_makes(table: Table, tmp_path: Path) -> None:
    """More records than one shard has, quoted newlines, an absolute path, and a byte order mark."""
    records = [record(number) for number in range(2345)]
    records[5] = 'pictures/1.jpg\t"two\nlines, ""quoted"""'
    records[1500] = f"{tmp_path}/pictures/2.jpg\tabsolute"
    path = table(records)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    config = IngestConfig(keep_original=True, workers=1)
    ingest(local_files(path), tmp_path / "dataset", config)
    listed, packed = CsvSet(path), ShardSet(tmp_path / "dataset")
    assert listed.sizes.tolist() == packed.sizes.tolist() == [1000, 1000, 345]
    assert [listed.read(shard, row) for shard in (0, 1, 2) for row in range(345)] == [
        packed.read(shard, row) for shard in (0, 1, 2) for row in range(345)
    ]
    settings = {"batch_size": 100, "stop": 2400, "transform": pixels, "tokenize": tokens, "block": 90}
    for ours, theirs in zip(
        batches(listed, **settings),  # type: ignore[arg-type]
        batches(packed, **settings),  # type: ignore[arg-type]
        strict=True,
    ):
        assert all((one == other).all() for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|"])
def test_the_separator_is_found(table: Table, separator: str) -> None:
    path = table([record(0, separator), record(1, separator)], f"filepath{separator}title")
    (first, second) = [CsvSet(path).read(0, row) for row in (0, 1)]
    assert first == Sample("000000000", picture(0), "caption 0")
    assert second.caption == "caption 1"


def test_other_separators_within_the_names_of_columns_do_not_mislead(table: Table) -> None:
    path = table(["pictures/0.jpg,a;b,1"], "filepath,title,x;y;z;w")
    assert CsvSet(path).read(0, 0).caption == "a;b"


def test_a_separator_that_is_given_is_taken(table: Table) -> None:
    path = table(["pictures/0.jpg:a,b"], "image:text")
    given = CsvSet(path, "image", "text", ":")
    assert given.read(0, 0).caption == "a,b"
    assert CsvSet(table(["pictures/0.jpg\tx"]), separator="\\t").read(0, 0).caption == "x"
    for wrong in ("::", '"', "", "\n"):
        with pytest.raises(SourceError, match="expected one ASCII character, no quote or newline"):
            CsvSet(path, "image", "text", wrong)


def test_a_missing_column_lists_those_found(table: Table) -> None:
    path = table(["1,a.jpg,b"], "id,image,text")
    with pytest.raises(SourceError, match=r"'filepath', found none among id, image, text; .* --image-col"):
        CsvSet(path)
    with pytest.raises(SourceError, match=r"'title', found none among id, image, text; .* --caption-col"):
        CsvSet(path, "image")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a header and records, found an empty file"),
        (b"filepath\ttitle\n", "expected records with a path and a caption, found none$"),
        (b"filepath\ttitle\n\none\n\ttitle\n", r"found none \(record 1: expected 2 columns, found 0\)$"),
        (b"filepath\ttitle\n" + b'"' + b"x" * 300_000, r"found none \(record 1: not CSV: field larger"),
        (
            b"filepath\ttitle\nnone/0.jpg\ta\nnone/1.jpg\tb\n",
            "found that none of 2 can be read, such as: none/0.jpg cannot be read: No such file",
        ),
        (b"filepath\ttitle\nhttp://h/1.jpg\ta\n", "expected a path on this machine, found a URL"),
    ],
)
def test_a_table_without_pictures_is_told_in_one_line(table: Table, content: bytes, message: str) -> None:
    path = table([])
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        CsvSet(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_plain_file_is_told(table: Table, tmp_path: Path) -> None:
    for make, words in (
        (lambda path: None, "No such file or directory"),
        (Path.mkdir, "Is a directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ):
        path = tmp_path / f"{len(words)}.csv"
        make(path)
        with pytest.raises(SourceError, match=words):
            CsvSet(path)
    with pytest.raises(SourceError, match="found a compressed one; unpack it"):
        CsvSet(tmp_path / "train.csv.gz")


def test_records_that_are_none_are_left_out_and_told(
    table: Table, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_set, "SHARD_SAMPLES", 2)
    broken = ["", "ragged", f"a\tb\tc{'x' * 200_000}", " \tno path"]
    path = table(
        [broken[0], record(0), *broken[1:], record(1), record(2), broken[1], record(3), record(4), ""]
    )
    found = CsvSet(path)
    assert found.sizes.tolist() == [2, 2, 1]
    assert [sample.caption for sample in everything(found)] == [f"caption {number}" for number in range(5)]
    told = capsys.readouterr().err
    assert (
        "6 records are no path and caption and are left out (record 1: expected 2 columns, found 0)" in told
    )
    assert "captions are empty" not in told


def test_empty_captions_are_told_and_kept(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    found = CsvSet(table([record(0), "pictures/1.jpg\t", "pictures/2.jpg\t  "]))
    assert [sample.caption for sample in everything(found)] == ["caption 0", "", "  "]
    assert "2 of 3 captions are empty" in capsys.readouterr().err


def test_pictures_that_cannot_be_read_are_bad_samples(table: Table, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(MAX_PICTURE_BYTES + 1)
    reasons = {
        "loop": "Too many levels of symbolic links",
        "pipe": "no regular file",
        "pictures": "no regular file",
        "/dev/zero": "no regular file",
        "huge": "more than 268,435,456 bytes",
        "a\0b": "embedded null",
        "x" * 5000: "File name too long",
        "https://h/a.jpg": "found a URL",
    }
    found = CsvSet(table([record(0), *(f"{name}\ta" for name in reasons)]))
    for row, (name, reason) in enumerate(reasons.items(), 1):
        with pytest.raises(SampleError, match=reason) as caught:
            found.read(0, row)
        assert str(caught.value).startswith(name[:199])
        assert len(str(caught.value)) < 300


def test_the_fingerprint_is_that_of_what_is_read(table: Table) -> None:
    path = table([record(0), record(1)], "filepath\ttitle")
    same, whole = CsvSet(path).fingerprint, path.read_bytes()
    assert CsvSet(path).fingerprint == same
    path.write_bytes(whole.replace(b"caption 1", b"caption 2"))
    changed = CsvSet(path).fingerprint
    path.write_bytes(whole)
    swapped = CsvSet(path, "filepath", "filepath").fingerprint
    assert len({same, changed, swapped}) == 3


def test_a_table_that_changes_is_told(table: Table) -> None:
    path = table([record(number) for number in range(1001)])
    found = CsvSet(path)
    other = pickle.loads(pickle.dumps(found))
    assert other.read(1, 0) == found.read(1, 0)
    with path.open("a") as stream:
        stream.write("more\tmore\n")
    again = pickle.loads(pickle.dumps(found))
    with pytest.raises(
        DatasetError, match="expected the table as it was when the run began, found it changed"
    ):
        again.read(0, 0)


def test_memory_is_bounded(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_set, "SHARD_SAMPLES", 10)
    monkeypatch.setattr(csv_set, "_KEPT_BYTES", 1000)
    found = CsvSet(table([record(number) for number in range(200)]))
    assert len(everything(found)) == 200
    assert sum(len(each.data) for each in found._stretches.values()) == found._kept_bytes <= 1000
