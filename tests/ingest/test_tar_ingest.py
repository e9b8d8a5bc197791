"""Tars through whole ingests: nothing is lost or requested, and the bytes are the same whatever happens."""

import gc
import json
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import webdataset as wds

from clipkit.errors import DatasetError, NetworkError, SourceError
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.images import Picture, process
from clipkit.ingest.result import IngestResult
from clipkit.ingest.run import ingest
from clipkit.ingest.tars import tars
from tests.datasets import contents
from tests.serving import Server, answer, encoded, photo
from tests.tars import write_hostile, write_img2dataset, write_tar
from tests.test_cli import clipkit

CONFIG = IngestConfig(image_size=32, workers=2, chunk_rows=100, max_bytes=100_000)
SIZES = (840, 1, 0, 880)  # samples of the tars
RECORDS = sum(SIZES)
BAD: dict[int, tuple[str, dict[str, Any]]] = {
    # sample modulo 20 → reason, members
    3: ("bad_row", {"txt": "without a picture"}),
    6: ("bad_row", {"jpg": b"x", "cls": 1}),
    9: ("not_an_image", {"jpg": b"<html>", "txt": "no picture"}),
    12: ("broken_image", {"jpg": encoded(photo())[:2000], "txt": "half a picture"}),
    15: ("empty", {"jpg": b"", "txt": "nothing"}),
    18: ("too_large", {"jpg": bytes(100_001), "txt": "large"}),
}
KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RECORDS samples in four tars of very different sizes, good and bad as the table above says."""
    folder = tmp_path_factory.mktemp("tars") / "shards"
    folder.mkdir()
    pictures = [
        {ending: encoded(photo(40 + seed, 50, seed), kind)}
        for seed in range(7)
        for ending, kind in KINDS.items()
    ]
    number = 0
    for tar, size in enumerate(SIZES):
        samples = []
        for place in range(size):
            fields = {"url": f"http://127.0.0.1:9/{number}", "score": number / 8}
            good = {"txt": f"picture «{number}»\n", "json": fields} | pictures[number % len(pictures)]
            samples.append({"__key__": f"{tar}/{place:06d}"} | BAD.get(number % 20, ("", good))[1])
            number += 1
        write_tar(folder / f"{tar:05d}.tar", samples)
    return folder


def run(folder: Path, out: Path, **settings: object) -> IngestResult:
    return ingest(tars([str(folder)], keep=["score"]), out, CONFIG.model_copy(update=settings))


def manifests(directory: Path) -> list[dict[str, Any]]:
    tables = [pq.read_table(path) for path in sorted(directory.glob("0*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def read_by_webdataset(folder: Path) -> list[dict[str, Any]]:
    names = [str(path) for path in sorted(folder.glob("*.tar"))]
    with warnings.catch_warnings(action="ignore"):  # it leaves closing its files to the garbage collector
        samples = list(wds.WebDataset(names, shardshuffle=False, empty_check=False))
        gc.collect()
    return samples


def pair(sample: dict[str, Any]) -> tuple[bytes, bytes]:
    return next(sample[kind] for kind in KINDS if kind in sample), sample["txt"]


def test_every_sample_is_a_sample_or_a_failure(folder: Path, tmp_path: Path) -> None:
    result = run(folder, tmp_path / "dataset")
    reasons = Counter(BAD[number % 20][0] for number in range(RECORDS) if number % 20 in BAD)
    assert result.failures == reasons and (result.records, result.shards) == (RECORDS, 2)
    samples = manifests(tmp_path / "dataset")
    failures = pq.read_table(tmp_path / "dataset" / "failures").to_pylist()
    first = {f"{tar:05d}.tar": sum(SIZES[:tar]) for tar in range(len(SIZES))}
    numbers = [first[row["source"]] + row["source_row"] for row in (*samples, *failures)]
    assert sorted(numbers) == list(range(RECORDS)) and numbers[: len(samples)] == sorted(
        numbers[: len(samples)]
    )
    for number, row in zip(numbers, samples, strict=False):
        assert row["caption"] == f"picture «{number}»\n" and row["url"] == f"http://127.0.0.1:9/{number}"
        assert row["score"] == json.dumps(number / 8)
    details = {(row["reason"], row["caption"]): row["detail"] for row in failures}
    assert ": no picture (jpg," in details["bad_row", "without a picture"]
    assert ": no txt member and no field" in details["bad_row", ""]


def test_pictures_kept_as_they_are_are_those_of_the_tars(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "dataset", keep_original=True)
    expected = [pair(sample) for sample in read_by_webdataset(folder) if is_good(sample)]
    made = read_by_webdataset(tmp_path / "dataset")
    assert [pair(sample) for sample in made] == expected and len(made) > 1000
    assert {kind for sample in made for kind in KINDS if kind in sample} == set(KINDS)


def is_good(sample: dict[str, Any]) -> bool:
    return bool(sample.get("txt", b"").startswith("picture «".encode()))


def test_pictures_are_otherwise_made_like_all_others(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "dataset", limit=60)
    expected = []
    for sample in read_by_webdataset(folder)[:60]:
        made = process(pair(sample)[0], CONFIG) if is_good(sample) else None
        expected += [(made.content, sample["txt"])] if isinstance(made, Picture) else []
    assert [pair(sample) for sample in read_by_webdataset(tmp_path / "dataset")] == expected
    assert len(expected) == 42


def test_any_number_of_workers_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "two")
    run(folder, tmp_path / "one", workers=1, connections=1)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_nothing_is_unpickled_and_nothing_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tars", "here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    tar = tmp_path / "tars" / "x.tar"
    keys = write_hostile(tar, tmp_path / "touched", encoded(photo()))
    before = set(tmp_path.rglob("*"))
    done = clipkit("ingest", "tars", tar, "--out", tmp_path / "out", "--json", cwd=tmp_path / "here")
    assert done.returncode == 0 and json.loads(done.stdout)["samples"] == len(keys), done.stderr
    out = {tmp_path / "out", *(tmp_path / "out").rglob("*")}
    assert set(tmp_path.rglob("*")) - out == before
    made = [sample["__key__"] for sample in read_by_webdataset(tmp_path / "out")]
    assert made == [f"{number:09d}" for number in range(len(keys))]


PROGRAM = """
import os, signal, sys
from pathlib import Path
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.engines.local import local
from clipkit.ingest.rows import ChunkOutcome
from clipkit.ingest.run import ingest
from clipkit.ingest.tars import tars

def killed(make_part, chunks, workers, window):
    left = int(sys.argv[4])
    for outcome in local(make_part, chunks, workers, window):
        yield outcome
        left -= isinstance(outcome, ChunkOutcome)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    config = IngestConfig.model_validate_json(sys.argv[3])
    ingest(tars([sys.argv[1]], keep=["score"]), Path(sys.argv[2]), config, engine=killed)
"""


@pytest.mark.slow
def test_a_killed_ingest_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "unbroken")
    out = tmp_path / "killed"
    for chunks in ("2", "4"):
        command = [sys.executable, "-c", PROGRAM, str(folder), str(out), CONFIG.model_dump_json(), chunks]
        ended = subprocess.run(command, stderr=subprocess.PIPE, check=False, timeout=120)
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert list((out / "parts" / "0000").glob("*.parquet"))
    assert run(folder, out).fetched <= RECORDS - 600
    assert contents(out) == contents(tmp_path / "unbroken")


def test_a_tar_that_changed_is_another_source(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shards"
    shutil.copytree(folder, copy)
    run(copy, tmp_path / "dataset", limit=100)
    write_tar(copy / "00003.tar", [{"__key__": "k", "jpg": b"x", "txt": "t"}])
    with pytest.raises(DatasetError, match=r"sha256 of 00003\.tar was "):
        run(copy, tmp_path / "dataset", limit=100)


def test_a_tar_that_vanishes_stops_the_ingest_and_marks_nothing(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shards"
    shutil.copytree(folder, copy)
    source = tars([str(copy)], keep=["score"])
    rows = list(source)
    (copy / "00003.tar").rename(tmp_path / "away.tar")
    with pytest.raises(
        SourceError, match=r"00003\.tar: expected the tar as it was .* run the same command again"
    ):
        ingest(replace(source, read=lambda: (row for row in rows)), tmp_path / "dataset", CONFIG)
    (tmp_path / "away.tar").rename(copy / "00003.tar")
    run(copy, tmp_path / "dataset")
    run(copy, tmp_path / "unbroken")
    assert contents(tmp_path / "dataset") == contents(tmp_path / "unbroken")


def test_img2dataset_shards_with_their_failures(server: Server, tmp_path: Path) -> None:
    rows = []
    for number in range(30):
        row: dict[str, Any] = {"url": server.add(f"/{number}", answer(b"")), "caption": f"caption {number}"}
        if number % 3:
            row["jpg"] = encoded(photo(40, 40, number))
        else:
            row |= {"status": "failed_to_download", "error_message": "HTTP Error 404: Not Found"}
        rows.append(row)
    for shard in range(3):
        write_img2dataset(tmp_path / "images", shard, rows[10 * shard : 10 * shard + 10])
    result = ingest(tars([str(tmp_path / "images")]), tmp_path / "dataset", CONFIG)
    assert (result.records, result.samples, result.failures) == (30, 20, {"http_4xx": 10})
    samples = manifests(tmp_path / "dataset")
    failures = pq.read_table(tmp_path / "dataset" / "failures").to_pylist()
    for row in (*samples, *failures):
        number = int(row["url"].rpartition("/")[2])
        assert row["caption"] == f"caption {number}" and (number % 3 == 0) == ("reason" in row)
    assert {row["detail"] for row in failures} == {"img2dataset: HTTP Error 404: Not Found"}
    assert {(row["attempts"], row["retryable"]) for row in failures} == {(0, False)}
    assert server.hits.total() == 0, "nothing is requested"


def test_a_dataset_of_clipkit_is_made_smaller_without_a_request(small_dataset: Path, tmp_path: Path) -> None:
    result = ingest(tars([str(small_dataset)]), tmp_path / "dataset", CONFIG)
    assert (result.records, result.samples, result.shards) == (2160, 2160, 3)
    for shard in ("000000", "000001", "000002"):
        before, after = (
            pq.read_table(folder / f"{shard}.parquet").to_pydict()
            for folder in (small_dataset, tmp_path / "dataset")
        )
        assert all(before[name] == after[name] for name in ("key", "url", "caption"))
        assert set(after["height"]) == {32} and set(before["height"]) == {40}


def test_what_img2dataset_did_not_get_can_be_tried_again(server: Server, tmp_path: Path) -> None:
    url = server.add("/late.jpg", answer(encoded(photo())))
    gone: dict[str, Any] = {"url": server.url("/gone"), "caption": "gone", "status": "failed_to_download"}
    late: dict[str, Any] = {
        "url": url,
        "caption": "late",
        "status": "failed_to_download",
        "sha256": None,
        "exif": "{}",
    }
    rows: list[dict[str, Any]] = [
        {"url": "http://x/", "caption": "good", "jpg": encoded(photo())},
        gone | {"error_message": "HTTP Error 404: Not Found"},
        late | {"error_message": "<urlopen error timed out>"},
    ]
    write_img2dataset(tmp_path / "theirs", 0, rows)
    config = CONFIG.model_copy(update={"allow_private_hosts": True})
    source = tars([str(tmp_path / "theirs")], keep=["exif"])
    first = ingest(source, tmp_path / "dataset", config)
    assert (first.samples, first.failures) == (1, {"http_4xx": 1, "timeout": 1})
    assert not server.hits, "what a tar holds and what another tool says is enough at first"
    second = ingest(source, tmp_path / "dataset", config, retry_failed=True)
    assert (second.samples, second.failures, server.hits) == (2, {"http_4xx": 1}, {"/late.jpg": 1})
    row = pq.read_table(tmp_path / "dataset" / "000001.parquet").to_pylist()[0]
    assert (row["caption"], row["url"], row["exif"]) == ("late", url, "{}")
    assert (row["source"], row["source_row"]) == ("00000.parquet", 2)


def test_another_try_without_a_name_resolver_marks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*asked: object, **settings: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    rows: list[dict[str, Any]] = [{"url": "http://x/", "caption": "good", "jpg": encoded(photo())}] * 1001
    failed = {"caption": "late", "status": "failed_to_download", "error_message": "<urlopen error timed out>"}
    rows.append({"url": "http://host.test/", **failed})
    write_img2dataset(tmp_path / "theirs", 0, rows)
    source, out = tars([str(tmp_path / "theirs")]), tmp_path / "dataset"
    ingest(source, out, CONFIG)
    before = contents(out)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(NetworkError, match="expected a working name resolver"):
        ingest(source, out, CONFIG, retry_failed=True)
    assert contents(out) == before
