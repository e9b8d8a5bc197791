"""Every fault that a dataset can have, done to a real one: which is told, of which file, member and byte."""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit.errors import DatasetError
from clipkit.shards.dataset import Pass, open_for_writing, read_dataset
from clipkit.shards.faults import Fault
from clipkit.shards.format import tar_end, tar_header, tar_member
from clipkit.shards.index import Index, read_index
from clipkit.shards.parquet import write_hashed
from clipkit.shards.seal import write_sealed
from clipkit.shards.verify import VerifyResult, verify
from tests.datasets import contents

SHARD = "000001.tar"


@pytest.fixture
def dataset(small_dataset: Path, tmp_path: Path) -> Path:
    """A copy of a dataset of three shards, to be damaged."""
    return shutil.copytree(small_dataset, tmp_path / "dataset")


def row(dataset: Path, number: int, shard: str = SHARD) -> dict[str, int]:
    found: dict[str, int] = (
        pq.read_table((dataset / shard).with_suffix(".parquet")).slice(number, 1).to_pylist()[0]
    )
    return found


def flip(path: Path, byte: int, bits: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(byte)
        found = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([found ^ bits]))


def causes(result: VerifyResult) -> dict[str, int]:
    return dict(sorted(result.counts.items()))


def one(result: VerifyResult, cause: str) -> Fault:
    (found,) = [fault for fault in result.faults if fault.cause == cause]
    return found


def change_manifest(dataset: Path, change: Callable[[pa.Table], pa.Table], shard: str = SHARD) -> None:
    """Change a manifest and let the index have its new hash: only its content is at fault."""
    path = (dataset / shard).with_suffix(".parquet")
    sha256 = write_hashed(path, change(pq.read_table(path)))
    index = read_index(dataset)
    index.entries = [
        entry._replace(manifest_sha256=sha256) if entry.name == shard else entry for entry in index.entries
    ]
    index.write(dataset)


def with_column(table: pa.Table, name: str, change: Callable[[list[object]], None]) -> pa.Table:
    values = table[name].to_pylist()
    change(values)
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


@pytest.mark.parametrize("decode", [False, True])
def test_a_whole_dataset_has_no_faults_and_is_not_written_to(dataset: Path, decode: bool) -> None:
    before = contents(dataset)
    result = verify(dataset, decode=decode)
    assert result.ok and result.faults == [] and result.decoded is decode
    assert (result.shards, result.samples, result.failures, result.unknown) == (3, 2160, 240, 0)
    assert result.bytes == sum(path.stat().st_size for path in dataset.glob("*.tar"))
    assert contents(dataset) == before


def test_any_number_of_processes_finds_the_same(dataset: Path) -> None:
    flip(dataset / "000000.tar", 3)
    flip(dataset / "000002.tar", 600)
    (dataset / "000001.parquet").unlink()
    results = [verify(dataset, workers=workers) for workers in (None, 1, 3)]
    assert len({json.dumps(each.as_json() | {"seconds": 0}) for each in results}) == 1
    assert not results[0].ok


def test_a_flipped_bit_in_each_kind_of_byte(dataset: Path) -> None:
    known = row(dataset, 500)
    picture, caption = f"{known['key']}.jpg", f"{known['key']}.txt"
    image_end = known["image_offset"] + known["image_bytes"]
    places = {
        # the byte → the fault's cause, member
        known["image_offset"] - 512: ("header", picture),
        known["image_offset"] - 512 + 130: ("header", picture),
        known["caption_offset"] - 512 + 150: ("header", caption),
        known["caption_offset"] + 3: ("caption", caption),
        known["caption_offset"] + known["caption_bytes"]: ("padding", caption),
        image_end if image_end % 512 else image_end + 1: ("padding", picture),
        (dataset / SHARD).stat().st_size - 5: ("end", None),
    }
    for byte, (cause, member) in places.items():
        flip(dataset / SHARD, byte)
        result = verify(dataset)
        assert causes(result) == {cause: 1, "sha256": 1}, byte
        found = one(result, cause)
        assert (found.file, found.member, found.byte) == (SHARD, member, byte)
        flip(dataset / SHARD, byte)
    assert verify(dataset).ok


def test_a_flipped_bit_in_a_picture_is_found_without_decoding_and_located_by_it(dataset: Path) -> None:
    known = row(dataset, 7)
    flip(dataset / SHARD, known["image_offset"] + 1)  # its first marker
    result = verify(dataset)
    assert causes(result) == {"picture": 1, "sha256": 1}
    found = one(result, "picture")
    assert (found.member, found.byte) == (f"{known['key']}.jpg", known["image_offset"])
    assert "can be decoded" in found.words


def test_a_change_that_no_decoder_sees_is_located_all_the_same(dataset: Path) -> None:
    known = row(dataset, 7)
    with (dataset / SHARD).open("rb") as tar:
        tar.seek(known["image_offset"])
        picture = tar.read(known["image_bytes"])
    # The density in the JFIF header changes no pixel.
    flip(dataset / SHARD, known["image_offset"] + picture.index(b"JFIF") + 9)
    for decode in (False, True):
        result = verify(dataset, decode=decode)
        assert causes(result) == {"picture": 1, "sha256": 1}
        found = one(result, "picture")
        assert (found.member, found.byte) == (f"{known['key']}.jpg", known["image_offset"])
        assert "although it can be decoded" in found.words
    flip(dataset / SHARD, known["caption_offset"])
    assert causes(verify(dataset)) == {"caption": 1, "picture": 1, "sha256": 1}
    flip(dataset / SHARD, known["caption_offset"])
    # A manifest of an older release has no checksums.
    change_manifest(dataset, lambda table: table.replace_schema_metadata(None))
    result = verify(dataset, decode=True)
    assert causes(result) == {"sha256": 1}
    assert "which of the pictures changed cannot be told" in result.faults[0].words


def test_what_was_cut_off(dataset: Path) -> None:
    known = row(dataset, 500)
    for size in (known["image_offset"] + 10, known["image_offset"] - 100, 0, 3):
        shutil.copy(dataset / SHARD, dataset / "whole")
        os.truncate(dataset / SHARD, size)
        result = verify(dataset)
        assert {"bytes", "sha256", "end"} <= result.counts.keys(), size
        first = next(fault for fault in result.faults if fault.cause == "end")
        assert "cut off" in first.words and first.byte is not None and abs(first.byte - size) < 512
        (dataset / "whole").rename(dataset / SHARD)


def test_an_empty_shard(dataset: Path) -> None:
    (dataset / SHARD).write_bytes(tar_end(0))
    result = verify(dataset)
    assert causes(result) == {"bytes": 1, "header": 1000, "sha256": 1}
    assert len(result.faults) == 22 and "found none" in result.faults[1].words


def test_a_missing_manifest_a_broken_one_and_that_of_another_shard(dataset: Path) -> None:
    manifest = dataset / "000001.parquet"
    whole = manifest.read_bytes()
    manifest.unlink()
    result = verify(dataset)
    assert one(result, "missing").file == "000001.parquet"
    assert causes(result) == {"missing": 1}, "the tar itself is right"
    manifest.write_bytes(whole[: len(whole) // 2])
    assert verify(dataset).counts.keys() >= {"manifest", "sha256"}
    manifest.write_bytes((dataset / "000000.parquet").read_bytes())
    result = verify(dataset)
    assert "is it the manifest of shard 000000?" in one(result, "key").words
    assert {"key", "sha256", "record"} <= result.counts.keys()


def test_swapped_shards(dataset: Path) -> None:
    (dataset / "000000.tar").rename(dataset / "x")
    (dataset / SHARD).rename(dataset / "000000.tar")
    (dataset / "x").rename(dataset / SHARD)
    result = verify(dataset)
    assert result.counts["key"] == 2 and result.counts["sha256"] == 2
    assert [fault.words for fault in result.faults if fault.cause == "key"] == [
        "expected the members of shard 000000, found those of shard 000001; swapped?",
        "expected the members of shard 000001, found those of shard 000000; swapped?",
    ]


def test_keys_that_are_not_right(dataset: Path) -> None:
    def twice(keys: list[object]) -> None:
        keys[5] = keys[4]

    change_manifest(dataset, lambda table: with_column(table, "key", twice))
    found = one(verify(dataset), "key")
    assert found.words == "row 5: expected the key 000001005, found '000001004'"


def insert(dataset: Path, place: int, member: bytes) -> None:
    path = dataset / SHARD
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + member + whole[place:])


def vouch_for(dataset: Path, content: bytes) -> None:
    """Write a tar of this content, of which the index then has the hash."""
    (dataset / SHARD).write_bytes(content)
    index = read_index(dataset)
    known = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    index.entries = [
        entry._replace(**known) if entry.name == SHARD else entry  # type: ignore[arg-type]
        for entry in index.entries
    ]
    index.write(dataset)


def test_members_in_another_order(dataset: Path) -> None:
    """Of a tar that the index vouches for: only its order is at fault."""
    whole = (dataset / SHARD).read_bytes()
    rows = pq.read_table(dataset / "000001.parquet").to_pylist()
    pictures = [row["image_offset"] - 512 for row in rows]
    caption = rows[5]["caption_offset"] - 512
    later = "expected the samples in the order of their keys, found this one before 00000100"
    apart = "expected the caption right behind its picture, found it elsewhere"
    for first, second, end, name, words in (
        (pictures[5], pictures[6], pictures[7], "000001006.jpg", later + "5"),
        (pictures[5], pictures[9], pictures[20], "000001009.jpg", later + "8"),
        (pictures[5], caption, pictures[6], "000001005.txt", apart),
    ):
        vouch_for(dataset, whole[:first] + whole[second:end] + whole[first:second] + whole[end:])
        result = verify(dataset)
        assert causes(result) == {"header": 1}
        assert result.faults == [Fault("header", SHARD, words, name, first)]
        vouch_for(dataset, whole)
    assert verify(dataset).ok


def test_a_picture_that_was_broken_before_it_was_packed(dataset: Path) -> None:
    """Every hash is that of what is there: only decoding tells."""
    known = row(dataset, 7)
    content = bytearray((dataset / SHARD).read_bytes())
    start = known["image_offset"] + known["image_bytes"] // 2
    end = known["image_offset"] + known["image_bytes"]
    content[start:end] = bytes(end - start)
    vouch_for(dataset, bytes(content))
    change_manifest(dataset, lambda table: table.replace_schema_metadata(None))  # the checksums
    assert verify(dataset).ok
    result = verify(dataset, decode=True)
    assert causes(result) == {"picture": 1}
    found = one(result, "picture")
    assert (found.file, found.member) == (SHARD, f"{known['key']}.jpg")
    assert found.byte == known["image_offset"] and "can be decoded" in found.words


def test_a_member_too_many_and_one_twice(dataset: Path) -> None:
    place = row(dataset, 3)["image_offset"] - 512
    whole = (dataset / SHARD).read_bytes()
    for name, words in (
        ("readme.md", "expected pictures and captions of this shard, found a member of another kind"),
        ("000001003.jpg", "expected one picture of this key, found another one"),
        ("000001003.txt", "expected one caption of this key, found another one"),
    ):
        insert(dataset, place, tar_member(name, b"hello"))
        result = verify(dataset)
        assert words in [fault.words for fault in result.faults], result.faults
        assert {"bytes", "sha256", "header"} <= result.counts.keys()
        (dataset / SHARD).write_bytes(whole)
    assert verify(dataset).ok


def bomb(kind: bytes, name: str, size: int, link: str = "") -> bytes:
    """A header of another kind than a file's, as tarfile would write it, of any size."""
    header = bytearray(tar_header(name, size))
    header[156:157] = kind
    header[157 : 157 + len(link)] = link.encode()
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize(
    "member",
    [
        bomb(b"2", "000001003.jpg", 0, "/etc/passwd"),
        bomb(b"1", "000001003.jpg", 0, "000001002.jpg"),
        bomb(b"5", "folder/", 0),
        bomb(b"S", "000001003.jpg", 1 << 30),
        bomb(b"x", "pax", 8**11 - 1),
        bomb(b"L", "././@LongLink", 1 << 30),
        bomb(b"0", "../../escape", 0),
    ],
    ids=["symlink", "hardlink", "folder", "sparse", "pax bomb", "long name bomb", "escape"],
)
def test_hostile_tars(dataset: Path, member: bytes) -> None:
    insert(dataset, row(dataset, 3)["image_offset"] - 512, member)
    before = set(dataset.parent.rglob("*"))
    result = verify(dataset, decode=True)
    assert {"bytes", "sha256"} < result.counts.keys() and len(result.faults) < 60
    assert set(dataset.parent.rglob("*")) == before


def test_a_tar_of_endless_members(dataset: Path) -> None:
    (dataset / SHARD).write_bytes(
        b"".join(tar_header(f"{number}", 0) for number in range(20_000)) + tar_end(0)
    )
    result = verify(dataset)
    assert result.counts["header"] < 8000 and len([f for f in result.faults if f.file == SHARD]) < 30


def test_a_shard_that_grows_while_it_is_read(dataset: Path) -> None:
    path = dataset / SHARD
    done = threading.Event()

    def grow() -> None:
        while not done.is_set():
            with path.open("ab") as file:
                file.write(bytes(512))
            time.sleep(0.0005)

    grower = threading.Thread(target=grow)
    grower.start()
    try:
        result = verify(dataset)
    finally:
        done.set()
        grower.join()
    assert {"changed", "bytes", "sha256"} <= result.counts.keys()


def test_files_that_the_index_does_not_list(dataset: Path) -> None:
    shutil.copy(dataset / SHARD, dataset / "000009.tar")
    shutil.copy(dataset / "000001.parquet", dataset / "notes.parquet")
    shutil.copy(dataset / "failures" / "000000.parquet", dataset / "failures" / "000007.parquet")
    (dataset / "README.md").write_text("mine")
    result = verify(dataset)
    assert causes(result) == {"unlisted": 3}
    assert [fault.file for fault in result.faults] == [
        "000009.tar",
        "failures/000007.parquet",
        "notes.parquet",
    ]


def test_an_index_that_is_damaged_missing_or_other(dataset: Path) -> None:
    path = dataset / "index.parquet"
    whole = path.read_bytes()
    for damaged in (whole[:100], whole[:-3], b"", None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        result = verify(dataset)
        assert causes(result) == {"index": 1}, "all else is found right, and says so"
        assert (result.shards, result.samples, result.failures) == (3, 2160, 240)
    for byte in range(4, len(whole) - 4, 97):
        path.write_bytes(whole)
        flip(path, byte)
        verify(dataset)  # whatever it says, it is no traceback
    path.write_bytes(whole)
    index = read_index(dataset)
    Index([*index.entries, index.entries[0]], index.progress).write(dataset)
    assert "index" in verify(dataset).counts


def test_an_index_of_another_tar(dataset: Path) -> None:
    index = read_index(dataset)
    index.entries[0] = index.entries[0]._replace(sha256="0" * 64, bytes=1, samples=999)
    index.write(dataset)
    result = verify(dataset)
    assert {"bytes", "sha256", "manifest", "sizes"} <= result.counts.keys()


def test_manifests_that_say_something_else(dataset: Path) -> None:
    def first(value: object) -> Callable[[list[object]], None]:
        def change(values: list[object]) -> None:
            values[0] = value

        return change

    whole = (dataset / "000001.parquet").read_bytes()
    for column, value, cause, decode in (
        ("caption", "another", "caption", False),
        ("image_offset", 5, "manifest", False),
        ("image_bytes", 5, "header", False),
        ("image_bytes", -5, "manifest", False),
        ("caption_bytes", 5, "manifest", False),
        ("ext", "../x", "manifest", False),
        ("ext", "png", "header", False),
        ("ext", None, "manifest", False),
        ("width", 49, "picture", True),
        ("height", 0, "manifest", False),
        ("sha256", "x", "manifest", False),
        ("source_row", 3, "record", False),
        ("source_row", -3, "record", False),
    ):
        change_manifest(dataset, lambda table, c=column, v=value: with_column(table, c, first(v)))  # type: ignore[misc]
        result = verify(dataset, decode=decode)
        assert cause in result.counts, (column, value, result.counts)
        assert "sha256" not in result.counts, "the tar is as the index says"
        (dataset / "000001.parquet").write_bytes(whole)
        change_manifest(dataset, lambda table: table)
    change_manifest(dataset, lambda table: table.drop_columns(["dhash"]))
    assert "found none such as dhash" in one(verify(dataset), "manifest").words
    assert causes(verify(dataset)) == {"manifest": 1}


def test_failures_that_are_not_right(dataset: Path) -> None:
    path = dataset / "failures" / "000000.parquet"
    whole = path.read_bytes()
    flip(path, len(whole) // 2)
    assert "sha256" in verify(dataset).counts
    path.unlink()
    assert causes(verify(dataset)) == {"missing": 1}
    table = pq.read_table(pa.BufferReader(whole))
    pq.write_table(with_column(table, "reason", lambda values: values.__setitem__(0, "bored")), path)
    result = verify(dataset)
    assert "'bored'" in one(result, "failures").words
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    result = verify(dataset)
    assert "found number 0 of 'list.tsv' again" in one(result, "record").words
    assert causes(result) == {"failures": 1, "record": 1, "sha256": 1, "totals": 3}


def test_sizes_and_totals_that_are_not_right(dataset: Path) -> None:
    (dataset / "sizes.json").write_text('{"000000.tar": 999}')
    assert causes(verify(dataset)) == {"sizes": 1}
    (dataset / "sizes.json").write_text("{")
    assert causes(verify(dataset)) == {"sizes": 1}
    (dataset / "sizes.json").unlink()
    described = json.loads((dataset / "dataset.json").read_text())
    described["totals"]["samples"] = 5
    write_sealed(dataset / "dataset.json", described)
    assert causes(verify(dataset)) == {"missing": 1, "totals": 1}
    (dataset / "dataset.json").write_text("{")
    assert causes(verify(dataset)) == {"dataset": 1, "missing": 1}
    (dataset / "dataset.json").write_text('{"format": "clipkit-dataset", "version": 2}')
    with pytest.raises(DatasetError, match="found 2"):
        verify(dataset)


def test_an_unfinished_ingest_is_verified_as_far_as_it_is(dataset: Path) -> None:
    with open_for_writing(dataset, read_dataset(dataset).description) as opened:
        opened.begin(Pass(kind="list", first=2400, records=1000))
    flip(dataset / SHARD, 0)
    result = verify(dataset)
    assert causes(result) == {"header": 1, "sha256": 1, "unfinished": 1}
    with pytest.raises(
        DatasetError, match=r"run the command that was interrupted again.*; then verify again$"
    ):
        result.check()


def test_what_is_no_dataset(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DatasetError, match="expected a dataset directory"):
            verify(directory)
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="found a file"):
        verify(tmp_path / "file")


def test_what_cannot_be_read_is_a_fault(dataset: Path) -> None:
    for name in (SHARD, "000002.parquet"):
        (dataset / name).unlink()
        (dataset / name).mkdir()
    result = verify(dataset)
    assert result.counts["unreadable"] == 2


def test_pictures_as_served_are_compared_with_their_hashes(dataset: Path) -> None:
    described = json.loads((dataset / "dataset.json").read_text())
    described["image"]["keep_original"] = True
    write_sealed(dataset / "dataset.json", described)
    assert verify(dataset, decode=True).ok
    made_up = pa.array([f"{row:064x}" for row in range(1000)])
    change_manifest(
        dataset,
        lambda table: table.set_column(table.schema.get_field_index("sha256"), "sha256", made_up),
        SHARD,
    )
    assert verify(dataset).ok
    assert verify(dataset, decode=True).counts == {"picture": 1000}


def test_invalid_text_in_a_manifest(dataset: Path) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        spoilt = pa.array([b"\xff\xfe"] * len(table), pa.binary()).view(pa.string())
        return table.set_column(table.schema.get_field_index("caption"), "caption", spoilt)

    change_manifest(dataset, spoil)
    assert "UTF8" in one(verify(dataset), "manifest").words
