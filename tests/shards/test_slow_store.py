"""What is read behind addresses is waited for several at a time, and asked for again if it came damaged."""

import json
import pickle
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from clipkit.cli import app
from clipkit.locations import location
from clipkit.model.preprocess import TrainTransform
from clipkit.model.tokenizer import Tokenizer
from clipkit.shards.bench import bench
from clipkit.shards.dedup import DedupConfig, dedup
from clipkit.shards.filter import FilterConfig, filter_dataset
from clipkit.shards.index import index_sha256
from clipkit.shards.packing import Packer
from clipkit.shards.parquet import write_hashed
from clipkit.shards.parts import PartWriter
from clipkit.shards.report import gather
from clipkit.shards.resemblance import Pictures
from clipkit.shards.shard_set import ShardSet
from clipkit.shards.show import show_random
from clipkit.shards.summary import summarize
from clipkit.shards.verify import verify
from tests.conftest import WriteDataset
from tests.datasets import everything
from tests.object_store import BUCKET, ObjectStore
from tests.serving import answering


@pytest.fixture
def uploaded(store: ObjectStore, small_dataset: Path, tmp_path: Path) -> Path:
    address = f"s3://{BUCKET}/{tmp_path.name}"
    store.fs.put(str(small_dataset), f"{BUCKET}/{tmp_path.name}", recursive=True)
    return location(address)


class Meeting:
    """Requests for files of such names wait a while for another one, until two were there at a time."""

    def __init__(self, ending: str):
        self._name = re.compile(rf".*/[0-9]{{6}}\.{ending}")
        self._changed = threading.Condition()
        self._there = 0
        self.took_place = False

    def __call__(self, method: str, path: str) -> None:
        if method != "GET" or not self._name.fullmatch(path):
            return
        with self._changed:
            self._there += 1
            self.took_place |= self._there > 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.took_place, 3)
            self._there -= 1


def no_folder(path: Path, *values: object) -> Pictures:
    raise AssertionError(path)


def derived(directory: Path, out: Path, **options: Any) -> None:
    assert not filter_dataset(directory, out / "derived", FilterConfig(**options)).lost


def duplicates(directory: Path, out: Path) -> None:
    dedup(directory, DedupConfig(), hash_folder=no_folder)


def prepared(directory: Path, out: Path) -> None:
    shard_set = ShardSet(str(directory))
    shard_set.prepare([0, 1, 2])
    assert [shard_set.read(shard, 0).key for shard in range(3)] == ["000000000", "000001000", "000002000"]
    shard_set.close()


READERS: dict[str, Callable[[Path, Path], object]] = {
    "info": lambda directory, out: summarize(directory),
    "verify": lambda directory, out: verify(directory).check(),
    "show": lambda directory, out: show_random(directory, 100, out / "page.html"),
    "report": lambda directory, out: gather(directory),
    "dedup": duplicates,
    "filter": lambda directory, out: derived(directory, out, where="source_row % 2 = 0"),
    "skip broken": lambda directory, out: derived(directory, out, skip_broken=True),
    "the stream": prepared,
}


OF_TARS = ["verify", "filter", "skip broken", "the stream", "show"]
SHORT = [("parquet", "filter"), ("parquet", "report"), ("tar", "the stream")]


@pytest.mark.parametrize(
    ("kind", "reader"),
    [
        pytest.param(kind, each, marks=[pytest.mark.slow] * ((kind, each) not in SHORT))
        for kind, readers in (("parquet", READERS), ("tar", OF_TARS))
        for each in readers
    ],
)
def test_files_are_waited_for_several_at_a_time(
    store: ObjectStore, uploaded: Path, tmp_path: Path, kind: str, reader: str
) -> None:
    store.fault = meeting = Meeting(kind)
    READERS[reader](uploaded, tmp_path)
    assert meeting.took_place


@pytest.mark.slow
def test_what_comes_ahead_fits_into_the_cache(
    store: ObjectStore, write_dataset: WriteDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "dataset", 7000, 1000)
    store.fs.put(str(tmp_path / "dataset"), f"{BUCKET}/{tmp_path.name}", recursive=True)
    largest = max(path.stat().st_size for path in (tmp_path / "dataset").glob("*.tar"))
    monkeypatch.setenv("CLIPKIT_CACHE_BYTES", str(3 * largest))
    directory = location(f"s3://{BUCKET}/{tmp_path.name}")
    assert not filter_dataset(directory, tmp_path / "derived", FilterConfig(where="source_row % 2 = 0")).lost
    asked = Counter(path for _, path in store.requests if path.endswith(".tar"))
    assert len(asked) == 7 == asked.total()


def test_processes_of_a_machine_fetch_each_file_once(store: ObjectStore, uploaded: Path) -> None:
    shard_set = ShardSet(str(uploaded))
    store.requests.clear()
    for each in (shard_set, pickle.loads(pickle.dumps(shard_set)), ShardSet(str(uploaded))):
        assert [each.read(shard, 5).key[-1] for shard in range(3)] == ["5", "5", "5"]
    asked = Counter(
        path.rpartition("/")[2] for way, path in store.requests if way == "GET" and "/00000" in path
    )
    assert asked == {f"{number:06d}.{kind}": 1 for number in range(3) for kind in ("tar", "parquet")}


def test_fetching_is_not_measured_as_reading(store: ObjectStore, uploaded: Path) -> None:
    shard_set = ShardSet(str(uploaded))
    store.fault = lambda method, path: time.sleep(1)
    settings = {"batch_size": 16, "workers": 0, "steps": 2}
    found = bench(shard_set, **settings, transform=TrainTransform(16), tokenize=Tokenizer())
    assert found.steps["read"] > 100, "two batches of 16 that wait a second for each file are at most 32"


def test_a_report_reads_no_whole_tars(store: ObjectStore, uploaded: Path, small_dataset: Path) -> None:
    asked: list[str] = []

    def range_of(given: str) -> str:
        asked.append(given)
        return given

    store.range_of = range_of
    of_bucket, of_disk = gather(uploaded), gather(small_dataset)
    assert of_bucket.pictures == of_disk.pictures and len(of_disk.pictures) == 48 == len(asked)
    assert sum(path.endswith(".tar") for _, path in store.requests) == 48


def test_parts_in_a_bucket_are_removed_once_and_the_index_is_not_read_again(
    store: ObjectStore, tmp_path: Path
) -> None:
    directory = location(f"s3://{BUCKET}/{tmp_path.name}")
    packer = Packer(directory, commit_seconds=0)
    for chunk in range(5):
        with PartWriter(packer.parts, chunk) as part:
            for row in range(1000):
                known = {"source": "list.tsv", "source_row": 1000 * chunk + row, "url": "u", "caption": "c"}
                part.success(known | {"ext": "jpg"}, b"picture")
        packer.add(chunk)
    index = packer.finish(5)
    removed = Counter(path.partition("?")[0] for method, path in store.requests if method == "DELETE")
    assert len(removed) == 10 == removed.total()
    assert not [path for method, path in store.requests if method == "GET" and path.endswith("index.parquet")]
    assert index.sha256 == index_sha256(directory)


def test_the_hash_of_a_manifest_is_that_of_what_was_written(store: ObjectStore, tmp_path: Path) -> None:
    path = location(f"s3://{BUCKET}/{tmp_path.name}/000000.parquet")
    table = pa.table({"n": np.arange(10)})
    sha256 = write_hashed(path, table)
    assert [method for method, _ in store.requests] == ["PUT"]
    assert sha256 == write_hashed(tmp_path / "here.parquet", table)
    assert pq.read_table(tmp_path / "here.parquet") == table


@contextmanager
def web(folder: Path, damaged: str, times: int) -> Iterator[Path]:
    """The folder on a web server that flips a bit of a file the first few times."""
    left = [times]

    class Handler(SimpleHTTPRequestHandler):
        def copyfile(self, source: Any, outputfile: Any) -> None:
            content = bytearray(source.read())
            if self.path.endswith(damaged) and left[0]:
                left[0] -= 1
                content[len(content) // 2] ^= 1
            outputfile.write(content)

        def log_message(self, *values: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    with answering(http, threading.Event()):
        yield location(f"http://127.0.0.1:{http.server_address[1]}")


READ = {
    "000001.parquet": ("info", "verify", "dedup", "filter", "skip broken", "the stream"),
    "000001.tar": ("verify", "filter", "skip broken", "the stream"),
    "failures/000000.parquet": ("info", "verify"),
}


@pytest.mark.parametrize(("damaged", "reader"), [(name, reader) for name in READ for reader in READ[name]])
def test_what_came_damaged_is_asked_for_again(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str, reader: str
) -> None:
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    with web(small_dataset, damaged, 1) as directory:
        READERS[reader](directory, tmp_path)


@pytest.mark.parametrize("damaged", READ)
def test_what_stays_damaged_is_told_once(small_dataset: Path, tmp_path: Path, damaged: str) -> None:
    with web(small_dataset, damaged, 10) as directory:
        found = verify(directory)
    assert found.counts["sha256"] == 1
    assert all(fault.file == damaged for fault in found.faults)


@pytest.mark.slow
def test_every_tool_reads_a_web_server(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))

    def told(command: str, *words: object) -> dict[str, Any]:
        done = CliRunner().invoke(app, ["shards", command, str(directory), *map(str, words), "--json"])
        assert done.exit_code == 0, done.output
        return cast("dict[str, Any]", json.loads(done.stdout))

    with web(tiny_dataset, "", 0) as directory:
        assert told("info")["samples"] == told("verify", "--decode")["samples"] == 64
        assert told("show", 5, "--out", tmp_path / "5.jpg")["caption"] == "caption of picture number 5"
        assert len(told("show", "--random", 3, "--out", tmp_path / "page.html")["keys"]) == 3
        told("filter", "--where", "source_row % 2 = 0", "--out", tmp_path / "even")
        told("dedup", "--against", tmp_path / "even", "--out", tmp_path / "odd")
        sizes = ("--batch-size", 8, "--steps", 2, "--image-size", 16, "--workers", 0)
        assert all(rate > 0 for rate in told("bench", *sizes)["steps"].values())
    whole = ShardSet(tiny_dataset)
    assert (tmp_path / "5.jpg").read_bytes() == whole.read(0, 5).image
    assert "cannot be shown" not in (tmp_path / "page.html").read_text()
    for part, first in (("even", 0), ("odd", 1)):
        pairs = [each[1:] for each in everything(ShardSet(tmp_path / part))]
        assert pairs == [each[1:] for each in everything(whole)[first::2]]
