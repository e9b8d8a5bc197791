"""Tars of other tools, read as they are."""

import gc
import json
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds

from clipkit.errors import DatasetError
from clipkit.shards.loader import batches
from clipkit.shards.shard_files import SampleError
from clipkit.shards.shard_set import ShardSet, name_of
from tests.conftest import picture
from tests.datasets import everything
from tests.shards.functions import tokenize, transform
from tests.tars import write_hostile, write_img2dataset, write_tar


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three tars of 5 samples, made by webdataset's writer."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for number in range(3):
        rows = range(number * 5, number * 5 + 5)
        samples = [{"__key__": f"s{row:03d}", "jpg": picture(row), "txt": f"caption {row}"} for row in rows]
        write_tar(folder / f"{number:05d}.tar", samples)
    return folder


def test_they_are_what_webdataset_reads(folder: Path) -> None:
    tars = [str(path) for path in sorted(folder.iterdir())]
    with warnings.catch_warnings(action="ignore"):  # it leaves closing its files to the garbage collector
        theirs = list(wds.WebDataset(tars, shardshuffle=False))
        gc.collect()
    expected = [(sample["__key__"], sample["jpg"], sample["txt"].decode()) for sample in theirs]
    assert len(expected) == 15
    for source in (folder, f"{folder}/{{00000..00002}}.tar", f"{folder}/*.tar"):
        assert everything(ShardSet(source)) == expected
    both = ShardSet([f"{folder}/00000.tar", f"{folder}/0000{{1,2}}.tar"])
    assert everything(both) == expected
    assert both.fingerprint == ShardSet(folder).fingerprint


def test_a_relative_path_holds_when_the_program_goes_elsewhere(
    folder: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in (folder, tiny_dataset):
        expected = everything(ShardSet(source))
        monkeypatch.chdir(source.parent)
        opened = [ShardSet(source.name), ShardSet(f"{source.name}/*.tar")]
        monkeypatch.chdir(tmp_path)
        assert [everything(each) for each in opened] == [expected, expected]


def test_a_pattern_may_be_longer_than_a_name(folder: Path) -> None:
    pattern = f"{folder}/{{{','.join(100 * ['00000', '00001'])}}}.tar"
    assert len(ShardSet(pattern)) == 1000
    assert name_of(pattern) == "tars"


def test_loader_processes_read_them(folder: Path) -> None:
    settings: dict[str, Any] = {"batch_size": 4, "stop": 24, "transform": transform, "tokenize": tokenize}
    here, there = (list(batches(ShardSet(folder), workers=workers, **settings)) for workers in (0, 2))
    assert len(here) == 6
    for ours, theirs in zip(here, there, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_nothing_is_unpickled_and_nothing_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tars", "here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    tar, touched = tmp_path / "tars" / "x.tar", tmp_path / "touched"
    keys = write_hostile(tar, touched, picture(0))
    with tarfile.open(tar) as read:
        pickles = [read.extractfile(name) for name in read.getnames() if name.startswith("plain.p")]
        contents = [file.read() for file in pickles if file]
    for content in contents:
        pickle.loads(content)
        touched.unlink()
    before = set(tmp_path.rglob("*"))
    shard_set = ShardSet(tar)
    assert everything(shard_set) == [(key, picture(0), "a caption of number 7") for key in keys]
    settings: dict[str, Any] = {"batch_size": 5, "stop": 10, "transform": transform, "tokenize": tokenize}
    assert len(list(batches(shard_set, **settings))) == 2
    assert len(contents) == 4 and set(tmp_path.rglob("*")) - before == {
        tar.with_name(".x.tar.headers.parquet")
    }


def test_an_img2dataset_folder(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"url": "http://h/1", "caption": "one", "jpg": picture(1)},
        {"url": "http://h/2", "caption": "two", "status": "failed_to_download", "error_message": "404"},
        {"url": "http://h/3", "caption": "thrée", "jpg": picture(3)},
    ]
    write_img2dataset(tmp_path / "laion", 0, rows)
    found = everything(ShardSet(tmp_path / "laion"))
    assert found == [("000000000", picture(1), "one"), ("000000002", picture(3), "thrée")]


def test_pictures_of_other_kinds_and_captions_in_a_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(
        tmp_path / "x.tar",
        [
            {"__key__": "a", "png": b"png", "json": {"caption": "in the json \N{SNOWMAN}", "url": "u"}},
            {"__key__": "b", "jpeg": b"jpeg", "json": {"text": "as text"}, "cls": 3},
            {"__key__": "c", "webp": b"webp", "txt": "text first", "json": {"caption": "not this"}},
            {"__key__": "d", "jpg": b"jpg", "json": {"title": "no caption"}},
            {"__key__": "e", "txt": "no picture"},
            {"__key__": "f", "jpg": b"jpg", "json": [1, 2]},
        ],
    )
    expected = [
        ("a", b"png", "in the json \N{SNOWMAN}"),
        ("b", b"jpeg", "as text"),
        ("c", b"webp", "text first"),
    ]
    assert everything(ShardSet(tmp_path / "x.tar")) == expected
    assert "3 samples have no picture or no caption and are left out" in capsys.readouterr().err
    assert everything(ShardSet(tmp_path / "x.tar")) == expected, "by the index beside it"


def test_headers_are_read_once(folder: Path, cache: Path) -> None:
    expected = everything(ShardSet(folder))
    indexes = sorted(folder.glob(".*.headers.parquet"))
    assert len(indexes) == 3 and not cache.exists()
    for tar in folder.glob("*.tar"):  # without headers only the index can tell what is where
        found = tar.stat()
        content = bytearray(tar.read_bytes())
        for index in pq.read_table(tar.with_name(f".{tar.name}.headers.parquet")).to_pylist():
            content[index["image_offset"] - 512 : index["image_offset"]] = bytes(512)
        tar.write_bytes(content)
        os.utime(tar, ns=(found.st_atime_ns, found.st_mtime_ns))
    shard_set = ShardSet(folder)
    assert shard_set.read(0, 0) == expected[0]
    for index in indexes:
        index.unlink()
    assert shard_set.read(0, 1) == expected[1], "the index is not read again for each sample"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be")
def test_where_nothing_can_be_written_the_index_goes_to_the_cache(folder: Path, tmp_path: Path) -> None:
    code = (
        "import os; from clipkit.shards.shard_set import ShardSet; os.setgroups([]); os.setgid(65534); "
        f"os.setuid(65534); print(len(ShardSet({str(folder)!r})))"
    )
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(0o755)
    (tmp_path / "their").mkdir()
    os.chown(tmp_path / "their", 65534, 65534)
    environment = os.environ | {"CLIPKIT_CACHE": str(tmp_path / "their" / "cache")}
    made = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert made.stdout == "15\n", made.stderr
    assert len(list((tmp_path / "their").rglob("*.parquet"))) == 3
    assert not list(folder.glob(".*"))


def test_a_tar_that_grows_or_changes_is_noticed(folder: Path) -> None:
    shard_set = ShardSet(folder)
    with (folder / "00001.tar").open("ab") as tar:
        tar.write(bytes(10_240))
    with pytest.raises(DatasetError, match=r"00001\.tar: expected the tar as it was .* found it changed"):
        shard_set.read(1, 0)
    (folder / "00002.tar").unlink()
    with pytest.raises(DatasetError, match=r"00002\.tar: expected the tar .* No such file"):
        shard_set.read(2, 0)
    assert len(ShardSet(folder)) == 10, "indexed anew"


def test_what_is_wrong_with_tars_is_said_before_the_first_step(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "00001.tar").read_bytes()
    damaged = bytearray(whole)
    damaged[0] ^= 1
    for content, words in (
        (whole[:3000], "was it cut off"),
        (bytes(damaged), "expected at byte 0 a tar header"),
        (b"\x1f\x8b" + whole, "a compressed one"),
        (bytes(10_240), None),
    ):
        (folder / "00001.tar").write_bytes(content)
        if words is None:
            assert ShardSet(folder).sizes.tolist() == [5, 0, 5], "an empty tar is one of no samples"
        else:
            with pytest.raises(DatasetError, match=rf"00001\.tar: .*{words}"):
                ShardSet(folder)
    with pytest.raises(DatasetError, match="found 1 of them missing"):
        ShardSet(f"{folder}/{{00000..00003}}.tar")
    with pytest.raises(DatasetError, match="found an empty list"):
        ShardSet([])
    (tmp_path / "empty").mkdir()
    write_tar(tmp_path / "empty" / "0.tar", [{"__key__": "a", "txt": "alone"}])
    with pytest.raises(DatasetError, match=r"expected samples, found none with a picture .* in 1 tars$"):
        ShardSet(tmp_path / "empty")
    write_tar(tmp_path / "empty" / "0.tar", [{"__key__": "a", "v1.jpg": picture(0), "v1.txt": "dotted"}])
    with pytest.raises(DatasetError, match=r"in 1 tars, such as a\.v1\.jpg: a key ends at the first dot"):
        ShardSet(tmp_path / "empty")


def test_an_index_that_lies_is_no_way_out_of_the_tar(folder: Path) -> None:
    ShardSet(folder)
    index = folder / ".00000.tar.headers.parquet"
    table = pq.read_table(index)
    beyond = table.set_column(1, "image_offset", pa.array([1 << 40] * 5, pa.int64()))
    pq.write_table(beyond.replace_schema_metadata(table.schema.metadata), index)
    with pytest.raises(DatasetError, match="impossible ones"):
        ShardSet(folder).read(0, 0)
    index.write_bytes(b"PAR1 nothing")
    assert everything(ShardSet(folder))[0][0] == "s000", "what is no index is made anew"


def test_a_changed_caption_field_is_an_error_that_names_the_sample(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", [{"__key__": "a", "jpg": b"j", "json": {"caption": "one"}}])
    shard_set = ShardSet(tar)
    found, content = tar.stat(), tar.read_bytes()
    tar.write_bytes(content.replace(json.dumps("caption").encode(), json.dumps("captian").encode()))
    os.utime(tar, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(DatasetError, match="its json has no caption in the field 'caption'"):
        shard_set.read(0, 0)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("s3://bucket/laion", "laion"),
        ("data/laion/{000..009}.tar", "laion"),
        ("data/laion/*.tar::data/more/0.tar", "laion"),
        ("data/one.tar", "one"),
        ("https://host/set/{0..9}.tar", "set"),
    ],
)
def test_a_run_is_named_after_its_data(source: str, name: str) -> None:
    assert name_of(source) == name


def test_what_lies_between_a_picture_and_its_caption_is_not_read(tmp_path: Path) -> None:
    between = bytes(30_000_000)
    sample = {"__key__": "a", "jpg": picture(1), "npz": between, "txt": "behind it"}
    shard_set = ShardSet(write_tar(tmp_path / "x.tar", [sample, sample | {"__key__": "b"}]))
    assert shard_set.read(0, 1) == ("b", picture(1), "behind it")
    tracemalloc.start()
    shard_set.read(0, 0)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_picture_larger_than_any_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.tar").open("wb") as file:
        large = tarfile.TarInfo("a.jpg")
        large.size = 1 << 30
        file.write(large.tobuf())
        file.seek(large.size, os.SEEK_CUR)
        text = tarfile.TarInfo("a.txt")
        text.size = 512
        file.write(text.tobuf() + bytes(512 + 10_240))
    with pytest.raises(SampleError, match="its picture has 1,073,741,824 bytes, over 268,435,456"):
        ShardSet(tmp_path / "x.tar").read(0, 0)


MANY = """
import resource, sys
from clipkit.shards.shard_set import ShardSet

resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
sets = [ShardSet(folder) for folder in sys.argv[1:]]
for shard in range(60):
    for each in sets:
        assert each.read(shard, 0).caption
print("read")
"""


def test_sets_that_are_read_together_share_the_files_that_a_process_may_open(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        for number in range(60):
            write_tar(tmp_path / name / f"{number:02}.tar", [{"__key__": "a", "jpg": b"j", "txt": "text"}])
    command = [sys.executable, "-c", MANY, *(str(tmp_path / name) for name in "abc")]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.stdout == "read\n", made.stderr
