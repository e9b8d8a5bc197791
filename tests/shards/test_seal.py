"""Flipped bits in what no tar vouches for: each is named; a repair brings back what it can, and tells."""

import json
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit.atomic import write_table
from clipkit.errors import DatasetError
from clipkit.shards.dataset import read_dataset
from clipkit.shards.filter import FilterConfig, filter_dataset
from clipkit.shards.index import index_sha256, read_index
from clipkit.shards.parquet import write_hashed
from clipkit.shards.repair import repair
from clipkit.shards.verify import verify
from tests.datasets import contents


@pytest.fixture
def dataset(small_dataset: Path, tmp_path: Path) -> Path:
    """A copy of a dataset of three shards whose index is known to its dataset.json, as ingest has it."""
    return sealed(shutil.copytree(small_dataset, tmp_path / "dataset"))


def sealed(directory: Path) -> Path:
    made = read_dataset(directory)
    assert made.totals
    made.finish(made.totals, index_sha256(directory))
    assert verify(directory).ok
    return directory


def flip(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def change_index(directory: Path, row: int, **values: object) -> None:
    table = pq.read_table(directory / "index.parquet")
    rows = table.to_pylist()
    rows[row] |= values
    pq.write_table(pa.Table.from_pylist(rows, table.schema), directory / "index.parquet")


@pytest.mark.parametrize("name", ["index.parquet", "dataset.json"])
def test_every_flipped_bit_is_named_and_mended_or_told(tiny_dataset: Path, tmp_path: Path, name: str) -> None:
    original = sealed(shutil.copytree(tiny_dataset, tmp_path / "original"))
    choice = random.Random(7)
    for number in range(25):
        dataset = shutil.copytree(original, tmp_path / "dataset")
        place, bit = choice.randrange((dataset / name).stat().st_size), choice.randrange(8)
        flip(dataset / name, place, bit)
        assert name in {fault.file for fault in verify(dataset).faults}, (number, place, bit)
        result = repair(dataset)
        assert result.lost == result.unnamed == 0 and verify(dataset).ok, (number, place, bit)
        assert result.ok or name == "dataset.json"
        of_tars = {file: content for file, content in contents(dataset).items() if file.startswith("0")}
        assert of_tars == {file: (original / file).read_bytes() for file in of_tars} != {}
        shutil.rmtree(dataset)


@pytest.mark.parametrize(
    "values",
    [
        {"sha256": "0" * 64},
        {"manifest_sha256": "0" * 64},
        {"samples": 999},
        {"bytes": 5},
        {"name": "000004.tar"},
    ],
)
def test_an_index_at_fault_costs_no_sample(dataset: Path, values: dict[str, object]) -> None:
    before = read_index(dataset).entries
    change_index(dataset, 1, **values)
    with pytest.raises(DatasetError, match=r"index\.parquet: expected the SHA-256 that"):
        filter_dataset(dataset, dataset.parent / "out", FilterConfig(skip_broken=True))
    assert repair(dataset).ok and verify(dataset).ok
    assert read_index(dataset).entries == before


def test_a_picture_that_its_manifest_speaks_against_is_given_up(dataset: Path) -> None:
    change_index(dataset, 0, bytes=5)
    flip(dataset / "000001.tar", 575, 0)  # a number in a JPEG, which decodes
    result = repair(dataset)
    assert result.lost == 1000 and "000001.tar, 000001000.jpg" in result.left_out[0]


def test_a_picture_that_its_manifest_speaks_against_is_told_where_no_index_is(dataset: Path) -> None:
    (dataset / "index.parquet").unlink()
    flip(dataset / "000001.tar", 575, 0)  # a number in a JPEG, which decodes
    told = repair(dataset).doubtful
    assert [line for line in told if "000001.tar, 000001000.jpg" in line and "CRC-32" in line], told


def test_a_tar_at_fault_beside_such_an_index_is_told(dataset: Path) -> None:
    """Its manifest is of an older release, without checksums."""
    manifest = dataset / "000001.parquet"
    sha256 = write_hashed(manifest, pq.read_table(manifest).replace_schema_metadata(None))
    change_index(dataset, 1, manifest_sha256=sha256)
    change_index(dataset, 0, bytes=5)
    flip(dataset / "000001.tar", 575, 0)  # a number in a JPEG, which decodes
    result = repair(dataset)
    assert not result.ok and "000001.tar: taken as found" in result.doubtful[0] and verify(dataset).ok


def test_a_broken_tar_beside_such_an_index_is_given_up(dataset: Path) -> None:
    change_index(dataset, 0, bytes=5)
    flip(dataset / "000001.tar", 512, 0)  # the first byte of a JPEG
    result = repair(dataset)
    assert result.lost == 1000 and "000001.tar" in result.left_out[0]


def test_a_tar_that_its_manifest_speaks_against_too_is_given_up(dataset: Path) -> None:
    manifest = dataset / "000001.parquet"
    was = manifest.read_bytes()
    change_index(dataset, 0, bytes=5)
    flip(dataset / "000001.tar", pq.read_table(manifest)["caption_offset"][3].as_py(), 0)
    result = repair(dataset)
    assert result.lost == 1000 and "000001.tar, 000001003.txt" in result.left_out[0]
    assert manifest.read_bytes() == was


def test_values_of_a_manifest_beside_such_an_index_are_told(dataset: Path) -> None:
    path = dataset / "000001.parquet"
    table = pq.read_table(path)
    urls = pa.array(["http://example.com/other", *table["url"].to_pylist()[1:]])
    pq.write_table(table.set_column(1, table.schema.field(1), urls), path)
    change_index(dataset, 0, bytes=5)
    assert ["000001.parquet: taken as found" in why for why in repair(dataset).doubtful] == [True]


def test_what_no_index_vouches_for_is_proven_or_told(dataset: Path) -> None:
    (dataset / "index.parquet").unlink()
    assert repair(dataset).ok
    (dataset / "index.parquet").unlink()
    flip(dataset / "000001.tar", 575, 0)  # a number in a JPEG, which decodes
    result = repair(dataset, decode=True)
    assert not result.ok and "index.parquet: made anew, and not the one" in result.doubtful[-1]
    assert verify(dataset).ok and repair(dataset).ok


def test_a_description_at_fault_is_kept_and_told(dataset: Path) -> None:
    path = dataset / "dataset.json"
    changed = json.loads(path.read_text()) | {"chunk_rows": 1001}
    path.write_text(json.dumps(changed))
    assert [fault.file for fault in verify(dataset).faults] == ["dataset.json"]
    result = repair(dataset)
    assert not result.ok and "dataset.json: taken as found" in result.doubtful[0]
    assert json.loads((dataset / "dataset.json.broken").read_text()) == changed
    assert verify(dataset).ok and repair(dataset).ok
    assert read_dataset(dataset).description.chunk_rows == 1001


def spoil_column(path: Path, column: str) -> None:
    chunk = pq.read_metadata(path).row_group(0).column(pq.read_schema(path).names.index(column))
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(path.read_bytes())
    content[begin : begin + 30] = b"\xff" * 30
    path.write_bytes(content)


@pytest.mark.parametrize("column", ["url", "sha256", "key", "image_offset", "caption"])
def test_a_manifest_loses_no_more_than_its_damaged_column(dataset: Path, column: str) -> None:
    path = dataset / "000001.parquet"
    was = pq.read_table(path)
    spoil_column(path, column)
    assert [fault.file for fault in verify(dataset).faults] == ["000001.parquet"] * 2
    result = repair(dataset)
    assert verify(dataset).ok
    made = pq.read_table(path)
    wrong = [name for name in was.column_names if not made[name].equals(was[name])]
    assert wrong == [column] * (column in ("url", "sha256"))  # the others follow from the tar
    assert [f"000001.parquet: {column} cannot be read" in why for why in result.doubtful] == [True] * len(
        wrong
    )


@pytest.mark.parametrize("column", ["url", "reason", "retryable", "source_row"])
def test_a_failure_file_loses_no_more_than_its_damaged_column(dataset: Path, column: str) -> None:
    path = dataset / "failures" / "000000.parquet"
    was = pq.read_table(path)
    spoil_column(path, column)
    result = repair(dataset)
    assert verify(dataset).ok and not result.ok and result.unnamed == 0
    assert "failures/000000.parquet" in result.remade
    made = pq.read_table(path)
    assert len(made) == len(was) == 240 and made["source_row"].equals(was["source_row"])
    wrong = [name for name in was.column_names if not made[name].equals(was[name])]
    if column == "source_row":  # without it nothing else can be told of a record, but that it was lost
        assert result.lost == 240 and "failures/000000.parquet" in result.left_out[0]
        return
    assert result.doubtful[0].startswith(f"failures/000000.parquet: {column} cannot be read")
    assert result.lost == 0 and wrong == {"url": ["url"], "reason": ["reason", "retryable"]}.get(column, [])
    assert set(made["reason"].to_pylist()) == ({"lost"} if column == "reason" else {was["reason"][0].as_py()})


def test_failures_of_impossible_records_are_named_again(dataset: Path) -> None:
    path = dataset / "failures" / "000000.parquet"
    was = pq.read_table(path)
    rows = was["source_row"].to_pylist()
    table = was.set_column(1, was.schema.field(1), pa.array([-5, None, 1, *rows[3:]]))  # 1 is a sample's
    pq.write_table(table, path)
    result = repair(dataset)
    assert verify(dataset).ok and (result.lost, result.unnamed) == (3, 0)
    assert pq.read_table(path).equals(was.slice(3))
    lost = pq.read_table(dataset / "failures" / "000001.parquet")
    assert lost["source_row"].to_pylist() == rows[:3]


@pytest.mark.parametrize("wrong", [{"key": "000001803"}, {"image_offset": 7}, {"caption": "another"}])
def test_a_row_whose_place_is_at_fault_stays_whose_it_was(dataset: Path, wrong: dict[str, object]) -> None:
    path = dataset / "000001.parquet"
    was = pq.read_table(path)
    row = was.slice(3, 1).to_pylist()[0] | wrong
    pq.write_table(
        pa.concat_tables([was.slice(0, 3), pa.Table.from_pylist([row], was.schema), was.slice(4)]), path
    )
    assert repair(dataset).unknown == 0 and verify(dataset).ok
    assert pq.read_table(path).equals(was)


def test_values_that_only_the_manifest_had_are_told(dataset: Path) -> None:
    path = dataset / "000001.parquet"
    table = pq.read_table(path)
    row = table.slice(3, 1).to_pylist()[0]
    row |= {"source_row": table["source_row"][2].as_py(), "sha256": "g" * 64}
    wrong = pa.Table.from_pylist([row], table.schema)
    pq.write_table(pa.concat_tables([table.slice(0, 3), wrong, table.slice(4)]), path)
    result = repair(dataset)
    assert not result.ok and "000001.parquet: taken as found" in result.doubtful[0]
    assert result.unknown == 1 and verify(dataset).ok
    made = pq.read_table(path).slice(3, 1).to_pylist()[0]
    assert made == row | {"source": None, "source_row": None, "sha256": None}


def test_a_manifest_that_nothing_proves_is_kept(dataset: Path) -> None:
    path, kept = dataset / "000001.parquet", dataset / "000001.parquet.broken"
    whole = pq.read_table(path)

    def replaced(*names: str) -> bytes:
        table = whole
        for name in names:
            place = table.column_names.index(name)
            table = table.set_column(place, table.schema.field(name), [["other"] * len(table)])
        write_table(path, table)
        (dataset / "index.parquet").unlink()
        return path.read_bytes()

    replaced("caption")
    assert repair(dataset).ok and not kept.exists(), "the index proves that it is as it was"
    was = replaced("caption", "url")
    assert not repair(dataset).ok and kept.read_bytes() == was
    assert pq.read_table(path)["caption"].equals(whole["caption"])
