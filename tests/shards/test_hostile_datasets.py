"""Datasets whose files are not what they seem: each command says so in one line, or does without."""

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit.errors import DatasetError
from clipkit.ingest.folder_hashes import hash_folder
from clipkit.shards.dataset import read_dataset
from clipkit.shards.dedup import DedupConfig, dedup
from clipkit.shards.filter import FilterConfig, filter_dataset
from clipkit.shards.index import INDEX_FILE, Index, read_index
from clipkit.shards.repair import repair
from clipkit.shards.report import write_report
from clipkit.shards.shard_set import ShardSet
from clipkit.shards.show import show_random, show_sample
from clipkit.shards.summary import summarize
from clipkit.shards.verify import verify

KEY = "000000007"


@pytest.fixture
def dataset(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A copy of a dataset of one shard, to be damaged."""
    return shutil.copytree(tiny_dataset, tmp_path / "dataset")


def filtered(dataset: Path) -> object:
    return filter_dataset(dataset, dataset.parent / "out", FilterConfig(where="length(caption) > 1"))


def compared(dataset: Path) -> object:
    return dedup(dataset, DedupConfig(near=2), out=dataset.parent / "single", hash_folder=hash_folder)


def shown(dataset: Path) -> object:
    return show_sample(dataset, KEY, dataset.parent / "out.jpg")


def read(dataset: Path) -> object:
    return ShardSet(dataset).read(0, 0)


COMMANDS: dict[str, Callable[[Path], object]] = {
    "info": summarize,
    "show": shown,
    "filter": filtered,
    "dedup": compared,
}


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [zeros, os.mkfifo, Path.mkdir])
@pytest.mark.parametrize("name", ["000000.tar", "000000.parquet", "index.parquet", "dataset.json"])
def test_what_is_no_regular_file_is_never_read(
    dataset: Path, name: str, make: Callable[[Path], object]
) -> None:
    (dataset / name).unlink()
    make(dataset / name)
    assert not verify(dataset).ok
    for command in COMMANDS.values():
        try:
            command(dataset)
        except (DatasetError, OSError) as error:
            assert "\n" not in str(error)
        else:
            assert name in ("000000.tar", "dataset.json")  # which not all of them need
    assert not (dataset.parent / "out.jpg").exists() or name == "dataset.json"


@pytest.mark.parametrize("make", [zeros, os.mkfifo])
@pytest.mark.parametrize("name", ["dataset.json", "sizes.json", ".repair/ready.json"])
def test_a_repair_waits_for_no_pipe(dataset: Path, name: str, make: Callable[[Path], object]) -> None:
    path = dataset / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    repair(dataset)
    assert verify(dataset).ok


def of_bytes(count: int) -> pa.Array:
    """Texts that are no UTF-8."""
    return pa.Array.from_buffers(pa.string(), count, pa.array([b"\xff\xfe"] * count).buffers())


def with_column(path: Path, name: str, values: pa.Array) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, values), path)


def hashed_again(dataset: Path) -> None:
    """Whoever changes a manifest can change the index too."""
    hashes = pa.array([sha256((dataset / "000000.parquet").read_bytes()).hexdigest()])
    with_column(dataset / INDEX_FILE, "manifest_sha256", hashes)


@pytest.mark.parametrize("name", ["key", "url", "caption", "sha256", "original_format", "ext"])
def test_texts_that_are_none_are_told_by_who_reads_them(dataset: Path, name: str) -> None:
    manifest = dataset / "000000.parquet"
    with_column(manifest, name, of_bytes(pq.read_metadata(manifest).num_rows))
    hashed_again(dataset)
    assert verify(dataset).counts == {"manifest": 1}
    for command in COMMANDS.values() if name != "key" else (filtered, compared, shown):
        with pytest.raises(DatasetError, match=r"000000\.parquet: .* UTF8"):
            command(dataset)


@pytest.mark.parametrize("name", ["caption", "sha256", "place"])
def test_two_columns_of_one_name(dataset: Path, name: str) -> None:
    manifest = dataset / "000000.parquet"
    table = pq.read_table(manifest)
    for _ in range(1 + (name not in table.column_names)):
        table = table.append_column(name, pa.array(["x"] * len(table)))
    pq.write_table(table, manifest)
    hashed_again(dataset)
    assert verify(dataset).counts == {"manifest": 1}
    for command in (*COMMANDS.values(), read):
        with pytest.raises(DatasetError, match=rf"000000\.parquet: .* two columns of the name '{name}'"):
            command(dataset)


@pytest.mark.parametrize("name", ["000000.parquet", "index.parquet"])
def test_a_columns_name_that_is_no_utf_8(dataset: Path, name: str) -> None:
    content = (dataset / name).read_bytes()
    (dataset / name).write_bytes(content.replace(b"sha256", b"sha\xff56"))
    if name != INDEX_FILE:
        hashed_again(dataset)
    assert verify(dataset).counts == {name.replace("000000.parquet", "manifest").partition(".")[0]: 1}
    for command in (*COMMANDS.values(), read):
        with pytest.raises(DatasetError, match=rf"{name}: expected .* codec can't decode"):
            command(dataset)
    assert repair(dataset).ok == (name == INDEX_FILE) and verify(dataset).ok


@pytest.mark.parametrize("name", ["dhash", "width", "caption_bytes", "image_offset"])
def test_a_manifests_column_of_another_type(dataset: Path, name: str) -> None:
    manifest = dataset / "000000.parquet"
    with_column(manifest, name, pa.array([[1]] * pq.read_metadata(manifest).num_rows))
    hashed_again(dataset)
    for command in (filtered, compared):
        with pytest.raises(DatasetError, match=r"000000\.tar: expected a manifest .* or of other types"):
            command(dataset)
    if name.endswith(("bytes", "offset")):
        with pytest.raises(DatasetError, match=rf"000000\.parquet: expected numbers in the column {name}"):
            read(dataset)


def test_a_tar_of_another_program_without_its_manifest(dataset: Path) -> None:
    tar, manifest = dataset / "000000.tar", dataset / "000000.parquet"
    with tarfile.open(tar) as old, tarfile.open(dataset / "new", "w") as new:
        for member in old.getmembers():
            member.mtime = 1_700_000_000
            new.addfile(member, old.extractfile(member))
    (dataset / "new").rename(tar)
    manifest.unlink()
    (dataset / "index.parquet").unlink()
    why = repair(dataset).left_out
    assert len(why) == 1 and "expected a header as clipkit writes it, found another one" in why[0]


def test_failures_without_reasons(small_dataset: Path, tmp_path: Path) -> None:
    dataset = shutil.copytree(small_dataset, tmp_path / "dataset")
    failures = dataset / "failures" / "000000.parquet"
    with_column(failures, "reason", pa.nulls(pq.read_metadata(failures).num_rows, pa.string()))
    index = pq.read_table(dataset / INDEX_FILE).to_pylist()
    of_file = {"failures/000000.parquet": sha256(failures.read_bytes()).hexdigest()}
    with_column(
        dataset / INDEX_FILE,
        "sha256",
        pa.array([of_file.get(each["name"], each["sha256"]) for each in index]),
    )
    write_report(dataset)
    assert "<code>?</code>" in (dataset / "report.html").read_text()
    assert verify(dataset).counts == {"failures": 1}
    assert repair(dataset).remade and verify(dataset).ok
    assert summarize(dataset).failures == 240
    assert summarize(dataset).reasons == {"lost": 240}


def test_a_manifest_that_pyarrow_cannot_take_apart(dataset: Path) -> None:
    manifest = dataset / "000000.parquet"
    content = manifest.read_bytes()
    manifest.write_bytes(content[:4] + b"\xff" * 2000 + content[2004:])  # the first pages' headers
    hashed_again(dataset)
    for command in (filtered, compared):
        with pytest.raises(DatasetError, match=r"000000\.parquet: expected a manifest, found: .*thrift"):
            command(dataset)


def test_a_page_of_a_manifest_of_other_columns(dataset: Path) -> None:
    manifest = dataset / "000000.parquet"
    table = pq.read_table(manifest)
    pq.write_table(table.drop_columns(["original_width"]), manifest)
    hashed_again(dataset)
    with pytest.raises(DatasetError, match=r"000000\.parquet: expected a manifest's columns, found others"):
        show_random(dataset, 5, dataset.parent / "page.html")
    pq.write_table(table, manifest)
    with_column(manifest, "caption", pa.array([[1]] * len(table)))
    hashed_again(dataset)
    with pytest.raises(DatasetError, match=r"000000\.parquet: expected a manifest's columns, found others"):
        show_random(dataset, 5, dataset.parent / "page.html")


def test_half_a_character_in_a_description(dataset: Path) -> None:
    path = dataset / "dataset.json"
    described = json.loads(path.read_text())
    source = described["sources"][0] | {"name": "\ud800 \udcff list"}
    path.write_text(json.dumps(described | {"sources": [source]}))
    filtered(dataset)
    (written,) = read_dataset(dataset.parent / "out").description.sources
    assert written.name == "\ufffd \ufffd list"


def test_a_shard_that_the_index_lists_twice(dataset: Path) -> None:
    index = read_index(dataset)
    Index([*index.entries, index.shards[0]], index.progress).write(dataset)
    for command in (filtered, compared, read):
        with pytest.raises(DatasetError, match=r"expected each shard once, found 000000\.tar twice; restore"):
            command(dataset)


@pytest.mark.parametrize("name", ["image_offset", "caption_offset"])
def test_places_beyond_all_numbers(dataset: Path, name: str) -> None:
    manifest = dataset / "000000.parquet"
    rows = pq.read_metadata(manifest).num_rows
    with_column(manifest, name, pa.array([2**63 - 1] * rows, pa.int64()))
    hashed_again(dataset)
    for command in (filtered, read):
        with pytest.raises(DatasetError, match=r"000000\.parquet: expected .* impossible ones"):
            command(dataset)


@pytest.mark.parametrize("samples", [None, -5, 0, 1001, 10**15])
def test_an_index_of_impossible_numbers(dataset: Path, samples: int | None) -> None:
    with_column(dataset / INDEX_FILE, "samples", pa.array([samples], pa.int64()))
    assert verify(dataset).counts == {"index": 1}
    for command in COMMANDS.values():
        with pytest.raises(DatasetError, match=f"000000.tar', shard of {samples} samples"):
            command(dataset)


def test_a_picture_without_a_place(dataset: Path) -> None:
    manifest = dataset / "000000.parquet"
    with_column(manifest, "image_offset", pa.nulls(pq.read_metadata(manifest).num_rows, pa.int64()))
    hashed_again(dataset)
    with pytest.raises(DatasetError, match=r"expected a picture's byte range, found \d+ bytes at None"):
        shown(dataset)


@pytest.mark.parametrize("changed", [{"passes": 5}, {"totals": [1]}, {"sources": {}}, {"parent": []}])
def test_a_description_of_other_kinds(dataset: Path, changed: dict[str, object]) -> None:
    content = json.loads((dataset / "dataset.json").read_text()) | changed
    (dataset / "dataset.json").write_text(json.dumps(content))
    assert verify(dataset).counts == {"dataset": 1}
    for command in (summarize, filtered, compared):
        with pytest.raises(DatasetError, match="was the file edited"):
            command(dataset)


def test_a_manifest_of_a_few_kilobytes_that_is_gigabytes(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, index = dataset / "000000.parquet", dataset / INDEX_FILE
    table = pq.read_table(manifest)
    same = pa.DictionaryArray.from_arrays(
        pa.array([0] * len(table), pa.int32()), pa.array(["x" * 32_000_000])
    )
    place = table.schema.get_field_index("caption")
    pq.write_table(table.set_column(place, "caption", same), manifest, compression="zstd", store_schema=False)
    with_column(index, "manifest_sha256", pa.array([sha256(manifest.read_bytes()).hexdigest()]))
    assert manifest.stat().st_size < 50_000
    for module in ("parquet", "original"):
        monkeypatch.setattr(f"clipkit.shards.{module}.MOST_BYTES", 60_000_000)
    (fault,) = verify(dataset).faults
    assert "more than 60,000,000 bytes of memory" in fault.words
    for command in (summarize, shown, filtered):
        with pytest.raises(DatasetError, match="more than 60,000,000 bytes of memory"):
            command(dataset)
    assert dedup(dataset, DedupConfig(near=2), hash_folder=hash_folder).samples == 64, "it reads no captions"


@pytest.mark.parametrize("name", ["dataset.json", "index.parquet"])
def test_json_that_is_nested_too_deeply_is_no_traceback(dataset: Path, name: str) -> None:
    deep = "[" * 100_000
    if name == INDEX_FILE:
        table = pq.read_table(dataset / name)
        metadata = {key: deep.encode() for key in table.schema.metadata}
        pq.write_table(table.replace_schema_metadata(metadata), dataset / name)
    else:
        (dataset / name).write_text(deep)
    with pytest.raises(DatasetError, match="found something else"):
        summarize(dataset)
