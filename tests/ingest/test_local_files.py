"""Pictures on this machine through the same steps as those of the network."""

import os
import re
import tracemalloc
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clipkit.errors import SourceError
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.fetch import fetch
from clipkit.ingest.local_files import local_files
from clipkit.ingest.rows import Failed, Fetched, UrlRow
from clipkit.ingest.run import ingest
from tests.datasets import contents
from tests.processes import until
from tests.serving import Server, answer, encoded, photo

CONFIG = IngestConfig(image_size=32, workers=1, chunk_rows=4, max_bytes=100_000, allow_private_hosts=True)


@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "train.csv"
    lines = [["filepath", "title"], ["a.jpg", '"one\nand ""two"""'], ["/b.jpg", "x"]]
    path.write_text("".join(delimiter.join(line) + "\n" for line in lines))
    source = local_files(path)
    assert list(source) == [
        UrlRow("train.csv", 0, "a.jpg", 'one\nand "two"', file=str(tmp_path / "a.jpg")),
        UrlRow("train.csv", 1, "/b.jpg", "x", file="/b.jpg"),
    ]
    assert (source.records, source.stem) == (2, "train")


def test_columns_are_named_or_listed(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("id,image,text\n1,a.jpg,b\n")
    with pytest.raises(SourceError, match=r"'filepath', found none among id, image, text; .* --image-col"):
        local_files(path)
    (row,) = local_files(path, "image", "text")
    assert (row.url, row.caption) == ("a.jpg", "b")


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("filepath\ttitle\n" + f"a.jpg\t{'x' * 300}\n" * 12_000)
    tracemalloc.start()
    source = local_files(path)
    assert sum(row.problem is None for row in source) == source.records == 12_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_500_000 < path.stat().st_size


def test_every_path_is_a_sample_or_a_failure(tmp_path: Path, server: Server) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        (tmp_path / "pictures" / f"{number}.jpg").write_bytes(encoded(photo(50, 40, number)))
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "large.jpg").write_bytes(bytes(200_000))
    os.mkfifo(tmp_path / "pipe.jpg")
    unlike = server.add("/0.jpg", answer(encoded(photo())))
    reasons = {
        "pictures/0.jpg": None,
        "pictures/missing.jpg": "bad_url",
        f"{tmp_path}/pictures/1.jpg": None,
        "text.jpg": "not_an_image",
        "empty.jpg": "empty",
        "large.jpg": "too_large",
        "pipe.jpg": "not_an_image",
        "pictures": "not_an_image",
        "/dev/zero": "not_an_image",
        "a\0b": "bad_url",
        "x" * 5000: "bad_url",
        unlike: "scheme",
        f"file://{tmp_path}/pictures/1.jpg": "scheme",
        "": "not_an_image",  # the folder itself
        "pictures/2.jpg": None,
    }
    path = tmp_path / "train.csv"
    lines = [f"{name}\tcaption {number}" for number, name in enumerate(reasons)]
    path.write_text("\n".join(["filepath\ttitle", *lines, "ragged"]) + "\n")
    result = ingest(local_files(path), tmp_path / "dataset", CONFIG)
    assert (result.records, result.samples) == (16, 3)
    failures = pq.read_table(tmp_path / "dataset" / "failures").to_pylist()
    found = {row["source_row"]: row["reason"] for row in failures}
    expected = {number: reason for number, reason in enumerate(reasons.values()) if reason}
    assert found == expected | {15: "bad_row"}
    details = {row["url"]: row["detail"] for row in failures}
    assert details["pictures/missing.jpg"] == "No such file or directory"
    manifest = pq.read_table(tmp_path / "dataset" / "000000.parquet")
    assert manifest["source_row"].to_pylist() == [0, 2, 14]
    assert manifest["url"].to_pylist()[0] == "pictures/0.jpg"
    assert server.hits.total() == 0, "nothing is requested"


def test_a_file_that_cannot_be_read_for_now_can_be_tried_again(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "good.jpg").write_bytes(encoded(photo(50, 40)))
    (disk / "ill.jpg").symlink_to("/proc/self/mem")  # a regular file, of which the first page gives EIO
    path = tmp_path / "train.csv"
    path.write_text("filepath\ttitle\ndisk/good.jpg\ta\ndisk/ill.jpg\tb\n")
    result = ingest(local_files(path), tmp_path / "dataset", CONFIG)
    assert (result.samples, result.failures, result.retryable) == (1, {"connect": 1}, 1)
    (failure,) = pq.read_table(tmp_path / "dataset" / "failures").to_pylist()
    assert failure["detail"] == "Input/output error"
    disk.rename(tmp_path / "unmounted")
    with pytest.raises(SourceError, match="found none of 2"):
        ingest(local_files(path), tmp_path / "dataset", CONFIG, retry_failed=True)
    (tmp_path / "unmounted").rename(disk)
    (disk / "ill.jpg").unlink()
    (disk / "ill.jpg").write_bytes(encoded(photo(50, 40)))
    result = ingest(local_files(path), tmp_path / "dataset", CONFIG, retry_failed=True)
    assert (result.samples, result.failures) == (2, {})


def test_paths_that_all_lead_nowhere_mark_nothing(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("filepath\ttitle\n" + "".join(f"below/{number}.jpg\tx\n" for number in range(1200)))
    config = CONFIG.model_copy(update={"chunk_rows": 1000})
    missing = re.escape(f"found none of 1,200 ({tmp_path}/below/0.jpg: No such file or directory)")
    with pytest.raises(SourceError, match=missing):
        ingest(local_files(path), tmp_path / "dataset", config)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "1199.jpg").write_bytes(encoded(photo(50, 40)))
    result = ingest(local_files(path), tmp_path / "dataset", config)
    assert (result.records, result.samples, result.failures) == (1200, 1, {"bad_url": 1199})


def test_a_disk_that_goes_away_stops_the_ingest_and_marks_nothing(tmp_path: Path) -> None:
    disk, out, path = tmp_path / "disk", tmp_path / "dataset", tmp_path / "train.csv"
    disk.mkdir()
    (disk / "one.jpg").write_bytes(encoded(photo(50, 40)))
    (disk / "two.jpg").symlink_to("one.jpg")
    lines = "".join(f"disk/{('two', 'one', 'none')[number % 3]}.jpg\t{number}\n" for number in range(120))
    path.write_text(f"filepath\ttitle\n{lines}")
    source = local_files(path)
    rows = list(source)

    def read() -> Generator[UrlRow]:
        for number, row in enumerate(rows):
            if number == 60 and (out / "parts").exists():  # not while the first rows are looked at
                until(lambda: list(out.rglob("parts/*/*.parquet")), "a part is there")
                disk.rename(tmp_path / "unmounted")
            yield row

    with pytest.raises(SourceError, match=r"\.jpg: expected a picture, found neither .*\.jpg; bring their"):
        ingest(replace(source, read=read), out, CONFIG)
    (tmp_path / "unmounted").rename(disk)
    result = ingest(source, out, CONFIG)
    assert (result.records, result.samples, result.failures) == (120, 80, {"bad_url": 40})
    ingest(source, tmp_path / "unbroken", CONFIG)
    assert contents(out) == contents(tmp_path / "unbroken")


def test_a_picture_without_its_folder_can_be_tried_again(tmp_path: Path) -> None:
    disk, folder, path = tmp_path / "disk", tmp_path / "folder", tmp_path / "train.csv"
    for place in (disk, folder):
        place.mkdir()
    (folder / "one.jpg").write_bytes(encoded(photo(50, 40)))
    rows = ["folder/one.jpg", "folder/none.jpg", "disk/one.jpg", "disk/photos/one.jpg"]
    path.write_text("filepath\ttitle\n" + "".join(f"{row}\tx\n" for row in rows))
    result = ingest(local_files(path), tmp_path / "dataset", CONFIG)
    assert (result.samples, result.failures, result.retryable) == (1, {"bad_url": 1, "connect": 2}, 2)
    (disk / "photos").mkdir()
    for place in (disk, disk / "photos"):
        (place / "one.jpg").write_bytes(encoded(photo(50, 40)))
    result = ingest(local_files(path), tmp_path / "dataset", CONFIG, retry_failed=True)
    assert (result.samples, result.failures) == (3, {"bad_url": 1})


def test_rows_of_both_kinds_keep_their_places(tmp_path: Path, server: Server) -> None:
    (tmp_path / "a").write_bytes(b"local")
    url = server.add("/a", answer(b"served"))
    rows = [
        UrlRow("s", 0, url, ""),
        UrlRow("s", 1, "a", "", file=str(tmp_path / "a")),
        UrlRow("s", 2, "", "", "broken"),
        UrlRow("s", 3, url, ""),
    ]
    outcomes = dict(each for each in fetch(enumerate(rows), CONFIG) if each)
    served = Fetched(b"served", 200, 1)
    assert outcomes == {0: served, 1: Fetched(b"local", None, 1), 2: Failed("bad_row", "broken"), 3: served}
