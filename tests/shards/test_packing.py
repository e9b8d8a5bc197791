import gc
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipkit.errors import DatasetError
from clipkit.shards.format import sample_key, shard_name, tar_end, tar_header, tar_member
from clipkit.shards.index import read_index
from clipkit.shards.packing import Packer
from clipkit.shards.parts import PartWriter
from clipkit.shards.schemas import FAILURE_SCHEMA, MANIFEST_SCHEMA, part_schema


def files_of(directory: Path) -> dict[str, str]:
    names = [path for path in directory.rglob("*") if path.is_file()]
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in names
    }


@given(name=st.from_regex(r"\A[0-9a-zA-Z._/-]{1,100}\Z"), content=st.binary(max_size=2000))
def test_a_member_equals_the_standard_librarys(name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    assert tar_header(name, len(content)) == member.tobuf(tarfile.USTAR_FORMAT)
    archive = tar_member(name, content)
    archive += tar_end(len(archive))
    assert len(archive) % 10_240 == 0
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        (found,) = tar.getmembers()
        extracted = tar.extractfile(found)
        assert extracted is not None and extracted.read() == content


def test_names_and_limits() -> None:
    assert shard_name(12) == "000012" and sample_key(12, 34) == "000012034"
    with pytest.raises(ValueError, match="outside"):
        shard_name(1_000_000)
    with pytest.raises(ValueError, match="ustar"):
        tar_header("x" * 101, 1)
    with pytest.raises(ValueError, match="ustar"):
        tar_header("x", 8**11)


def test_exact_shards_and_the_accounting_law(small_dataset: Path) -> None:
    index = read_index(small_dataset)
    assert [shard.samples for shard in index.shards] == [1000, 1000, 160]
    assert json.loads((small_dataset / "sizes.json").read_text()) == {
        "000000.tar": 1000,
        "000001.tar": 1000,
        "000002.tar": 160,
    }
    samples, failures = [], []
    for shard in index.shards:
        manifest = pq.read_table((small_dataset / shard.name).with_suffix(".parquet"))
        assert manifest.schema == MANIFEST_SCHEMA
        samples += list(zip(manifest["source"].to_pylist(), manifest["source_row"].to_pylist(), strict=True))
    for entry in index.failure_files:
        table = pq.read_table(small_dataset / entry.name)
        failures += list(zip(table["source"].to_pylist(), table["source_row"].to_pylist(), strict=True))
    assert samples == sorted(samples) and failures == sorted(failures)
    assert sorted(samples + failures) == [("list.tsv", row) for row in range(2400)]
    totals = json.loads((small_dataset / "dataset.json").read_text())["totals"]
    assert totals == {"records": 2400, "samples": 2160, "failures": 240, "shards": 3}
    assert not (small_dataset / "parts").exists()


def test_hashes_ranges_and_members(small_dataset: Path) -> None:
    for shard in read_index(small_dataset).shards:
        path = small_dataset / shard.name
        data = path.read_bytes()
        assert len(data) == shard.bytes and hashlib.sha256(data).hexdigest() == shard.sha256
        manifest_bytes = path.with_suffix(".parquet").read_bytes()
        assert hashlib.sha256(manifest_bytes).hexdigest() == shard.manifest_sha256
        rows = pq.read_table(path.with_suffix(".parquet")).to_pylist()
        names = [name for row in rows for name in (f"{row['key']}.jpg", f"{row['key']}.txt")]
        with tarfile.open(path) as tar:
            assert tar.getnames() == names
            assert all(member.mode == 0o644 and member.mtime == 0 for member in tar.getmembers())
        for row in rows[::97]:
            caption = data[row["caption_offset"] :][: row["caption_bytes"]].decode()
            assert caption == row["caption"] == f"caption of picture number {row['source_row']}"
            picture = data[row["image_offset"] :][: row["image_bytes"]]
            assert Image.open(io.BytesIO(picture)).size == (row["width"], row["height"])


def test_webdataset_reads_the_shards(small_dataset: Path) -> None:
    names = [str(small_dataset / shard.name) for shard in read_index(small_dataset).shards]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the reader leaves closing to the collector
        samples = list(webdataset.WebDataset(names, shardshuffle=False).decode("pil"))
        gc.collect()
    assert [sample["txt"] for sample in samples] == [
        f"caption of picture number {row}" for row in range(2400) if row % 10
    ]
    assert {sample["jpg"].size for sample in samples} == {(48, 40)}


KEPT = [pa.field("score", pa.float32()), pa.field("tag", pa.string())]


def kept_values(row: int) -> dict[str, object]:
    return {"score": None if row % 5 == 0 else row / 2, "tag": f"tag «{row}»"}


@settings(max_examples=8, deadline=None)
@given(
    order=st.permutations(range(6)),
    restart_after=st.integers(0, 6),
    commit_seconds=st.sampled_from([0, 9]),
    kept=st.sampled_from([[], KEPT]),
)
def test_any_order_and_any_interruption_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
    restart_after: int,
    commit_seconds: float,
    kept: list[pa.Field],
) -> None:
    def part(parts: Path, chunk: int) -> None:
        with PartWriter(parts, chunk, kept) as writer:
            for row in range(chunk * 450, chunk * 450 + 450):
                known = {"source": "s", "source_row": row, "url": "u", "caption": f"c{row}", "ext": "jpg"}
                if kept:
                    known |= kept_values(row)
                if row % 7 == chunk % 7:
                    writer.failure(known | {"reason": "empty", "retryable": False})
                else:
                    writer.success(known, f"image {row}".encode())

    directory = tmp_path_factory.mktemp("packing")
    packer = Packer(directory, commit_seconds=commit_seconds)
    for done, chunk in enumerate(order):
        if done == restart_after:
            packer = Packer(directory, commit_seconds=commit_seconds)
        assert not packer.is_done(chunk)
        part(packer.parts, chunk)
        packer.add(chunk)
    packer.finish(6)
    reference = tmp_path_factory.mktemp("reference")
    straight = Packer(reference)
    for chunk in range(6):
        part(straight.parts, chunk)
        straight.add(chunk)
    straight.finish(6)
    assert files_of(directory) == files_of(reference)


def test_kept_columns_come_last_in_manifests_and_in_no_failure_file(tmp_path: Path) -> None:
    packer = Packer(tmp_path)
    for chunk in range(3):
        with PartWriter(packer.parts, chunk, KEPT) as writer:
            for row in range(chunk * 500, chunk * 500 + 500):
                known = {"source": "s", "source_row": row, "url": "u", "caption": "c", "ext": "jpg"}
                if chunk == 1:
                    writer.failure(known | kept_values(row) | {"reason": "empty", "retryable": False})
                else:
                    writer.success(known | kept_values(row), b"image")
        packer.add(chunk)
    packer.finish(3)
    manifest = pq.read_table(tmp_path / "000000.parquet")
    assert manifest.schema == pa.schema([*MANIFEST_SCHEMA, *KEPT])
    rows = [*range(500), *range(1000, 1500)]
    assert manifest.select(["source_row", "score", "tag"]).to_pylist() == [
        {"source_row": row, **kept_values(row)} for row in rows
    ]
    assert pq.read_table(tmp_path / "failures" / "000000.parquet").schema == FAILURE_SCHEMA


@pytest.mark.parametrize("names", [["width"], ["reason"], ["key"], ["score", "score"]])
def test_kept_columns_with_names_that_are_taken_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="names of their own"):
        part_schema([pa.field(name, pa.string()) for name in names])


def test_parts_survive_only_whole(tmp_path: Path) -> None:
    row = {"source": "s", "source_row": 0, "url": "u", "caption": "c", "ext": "jpg"}
    with pytest.raises(RuntimeError), PartWriter(tmp_path, 0) as writer:
        writer.success(row, b"image")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_writer_leaves_no_listed_shard(tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
from pathlib import Path
from clipkit.shards import packing, writing
from clipkit.shards.parts import PartWriter
directory = Path({str(tmp_path)!r})
packer = packing.Packer(directory)
with PartWriter(packer.parts, 0) as writer:
    for row in range(2500):
        writer.success(dict(source="s", source_row=row, url="u", caption="c", ext="jpg"), b"image")
writing.write_hashed = lambda path, table: os.kill(os.getpid(), signal.SIGKILL)
packer.add(0)
"""
    finished = subprocess.run([sys.executable, "-c", program], env=os.environ, check=False)
    assert finished.returncode == -9
    assert (tmp_path / "000000.tar").exists() and not (tmp_path / "index.parquet").exists()
    (tmp_path / "parts" / "0000" / ".00000007.tar.tmp").write_bytes(b"cut off")
    assert not list(Packer(tmp_path)._directory.rglob("*.tmp"))
    index = Packer(tmp_path).finish(1)
    assert [shard.samples for shard in index.shards] == [1000, 1000, 500]


def test_an_index_of_another_kind_is_refused(tmp_path: Path, small_dataset: Path) -> None:
    with pytest.raises(DatasetError, match="found none"):
        read_index(tmp_path)
    with pytest.raises(DatasetError, match="no such directory"):
        read_index(tmp_path / "absent")
    (tmp_path / "index.parquet").write_bytes(b"not parquet")
    with pytest.raises(DatasetError, match="Parquet index"):
        read_index(tmp_path)
    (tmp_path / "index.parquet").write_bytes((small_dataset / "000000.parquet").read_bytes())
    with pytest.raises(DatasetError, match="columns"):
        read_index(tmp_path)


def test_two_writers_of_a_part_leave_that_of_the_first_to_end(tmp_path: Path) -> None:
    """The packer may have read its table, whose places are those of its tar alone."""
    row = {"source": "s", "source_row": 0, "url": "u", "caption": "c", "ext": "jpg"}
    packer = Packer(tmp_path)
    with PartWriter(packer.parts, 0) as lost:
        for _ in range(50):
            lost.success(row, b"another image")
        with PartWriter(packer.parts, 0) as again:
            again.success(row, b"image")
        packer.add(0)
    (shard,) = packer.finish(1).shards
    assert shard.samples == 1 and b"another image" not in (tmp_path / shard.name).read_bytes()
    assert not (tmp_path / "parts").exists()
