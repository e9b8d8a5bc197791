import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit.errors import ConfigError, DatasetError
from clipkit.ingest.folder_hashes import hash_folder
from clipkit.shards.dataset import DatasetDescription, Pass, Totals, open_for_writing, read_dataset
from clipkit.shards.dedup import DedupConfig, dedup
from clipkit.shards.filter import FilterConfig, FilterResult, filter_dataset
from clipkit.shards.index import read_index
from clipkit.shards.original import Original
from clipkit.shards.packing import Packer
from clipkit.shards.parts import PartWriter
from clipkit.shards.repair import repair
from clipkit.shards.schemas import MANIFEST_SCHEMA
from clipkit.shards.shard_set import ShardSet
from clipkit.shards.summary import summarize
from clipkit.shards.verify import verify
from tests.conftest import WriteDataset, picture
from tests.datasets import contents
from tests.shards.test_verify import change_manifest

PROVENANCE = [name for name in MANIFEST_SCHEMA.names if name not in {"key", "image_offset", "caption_offset"}]


def filtered(directory: Path, out: Path, **options: Any) -> FilterResult:
    return filter_dataset(directory, out, FilterConfig(**options))


def manifests(directory: Path) -> pa.Table:
    names = [shard.name for shard in read_index(directory).shards]
    return pa.concat_tables(pq.read_table((directory / name).with_suffix(".parquet")) for name in names)


def samples(directory: Path) -> list[tuple[bytes, bytes]]:
    """Pictures and captions, as they lie in the tars."""
    found = []
    for shard in read_index(directory).shards:
        with tarfile.open(directory / shard.name) as tar:
            read = [(member.name, tar.extractfile(member)) for member in tar]
            members = {name: file.read() for name, file in read if file}
        keys = dict.fromkeys(name.partition(".")[0] for name in members)
        found += [(members[f"{key}.jpg"], members[f"{key}.txt"]) for key in keys]
    return found


def test_what_fulfils_the_condition_is_copied_byte_for_byte(small_dataset: Path, tmp_path: Path) -> None:
    before = contents(small_dataset)
    result = filtered(small_dataset, tmp_path / "new", where="source_row % 3 <> 1 and length(caption) > 8")
    assert contents(small_dataset) == before
    original, new = manifests(small_dataset), manifests(tmp_path / "new")
    kept = pa.array([row % 3 != 1 for row in original["source_row"].to_pylist()])
    expected = original.filter(kept)
    assert new.select(PROVENANCE).equals(expected.select(PROVENANCE))
    assert new.schema == original.schema
    assert new["key"].to_pylist() == [f"{row:09d}" for row in range(len(new))]
    of_row = dict(zip(original["source_row"].to_pylist(), samples(small_dataset), strict=True))
    assert samples(tmp_path / "new") == [of_row[row] for row in new["source_row"].to_pylist()]
    shard_set = ShardSet(tmp_path / "new")
    assert shard_set.sizes.tolist() == [1000, 440]
    assert [shard_set.read(1, row).image for row in range(440)] == [
        image for image, _ in samples(tmp_path / "new")[1000:]
    ]
    assert result.samples == 2160 and result.written[0].left_out == {"broken": 0, "where": 720, "split": 0}


def test_a_derived_dataset_accounts_to_its_parent(small_dataset: Path, tmp_path: Path) -> None:
    filtered(small_dataset, tmp_path / "one", where="width > 0 and source_row < 1000")
    filtered(tmp_path / "one", tmp_path / "two", where="source_row >= 500")
    two = read_dataset(tmp_path / "two")
    parent = two.description.parent
    assert parent is not None and parent.parent is not None and two.totals is not None
    assert (parent.name, parent.samples, parent.failures) == ("one", 900, 0)
    assert parent.settings["where"] == "source_row >= 500"
    assert two.totals == Totals(records=450, samples=450, failures=0, shards=1)
    assert two.totals.samples + sum(parent.left_out.values()) == parent.samples
    assert parent.fingerprint == read_index(tmp_path / "one").fingerprint()
    assert (parent.parent.samples, parent.parent.failures) == (2160, 240)
    assert two.description.sources == read_dataset(small_dataset).description.sources


def test_info_and_verify_know_where_it_comes_from(small_dataset: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    filtered(small_dataset, new, where="source_row < 1000")
    summary = summarize(new)
    assert (summary.records, summary.samples, summary.failures) == (900, 900, 0)
    assert "by filter: where source_row < 1000" in summary.lines()
    assert summary.as_json()["parent"]["left_out"] == {"broken": 0, "where": 1260, "split": 0}
    assert verify(new, workers=1).ok
    content = json.loads((new / "dataset.json").read_text())
    content["parent"]["left_out"]["where"] += 1
    (new / "dataset.json").write_text(json.dumps(content))
    assert any("parent: expected" in fault.words for fault in verify(new, workers=1).faults)


def test_kept_columns_stay_and_can_be_asked_for(tmp_path: Path) -> None:
    kept = [pa.field("score", pa.float32()), pa.field("tags", pa.list_(pa.string()))]
    description = DatasetDescription(sources=(), image={})
    with open_for_writing(tmp_path / "old", description) as dataset:
        dataset.begin(Pass(kind="list", records=3))
        packer = Packer(tmp_path / "old")
        with PartWriter(packer.parts, 0, kept) as part:
            for row in range(3):
                known = {"source": "s", "source_row": row, "url": "u", "caption": "ü\n", "ext": "jpg"}
                part.success(known | {"score": row / 2, "tags": ["x"] * row}, picture(row))
        packer.add(0)
        packer.finish(1)
        dataset.finish(Totals(records=3, samples=3, failures=0, shards=1))
    filtered(tmp_path / "old", tmp_path / "new", where="score > 0 and len(tags) > 1")
    table = manifests(tmp_path / "new")
    assert table.select(["score", "tags"]).to_pylist() == [{"score": 1.0, "tags": ["x", "x"]}]
    assert samples(tmp_path / "new") == [(picture(2), "ü\n".encode())]


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    """There are 48 MB of them, of which every second one is copied."""
    large = picture(0) + bytes(60_000)
    with open_for_writing(tmp_path / "old", DatasetDescription(sources=(), image={})) as dataset:
        dataset.begin(Pass(kind="list", records=800))
        packer = Packer(tmp_path / "old")
        with PartWriter(packer.parts, 0) as part:
            for row in range(800):
                known = {"source": "s", "source_row": row, "url": "u", "caption": "c", "ext": "jpg"}
                part.success(known, large)
        packer.add(0)
        packer.finish(1)
        dataset.finish(Totals(records=800, samples=800, failures=0, shards=1))
    filtered(tmp_path / "old", tmp_path / "first", where="source_row = 0")  # loads what is loaded once
    tracemalloc.start()
    filtered(tmp_path / "old", tmp_path / "new", where="source_row % 2 = 0")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(ShardSet(tmp_path / "new")) == 400
    assert peak < 10_000_000


def test_a_split_divides_the_pictures_for_ever(small_dataset: Path, tmp_path: Path) -> None:
    filtered(small_dataset, tmp_path / "both", split=0.2)
    sides = {
        part: set(manifests(tmp_path / "both" / part)["source_row"].to_pylist()) for part in ("train", "val")
    }
    assert not sides["train"] & sides["val"] and len(sides["train"] | sides["val"]) == 2160
    assert 330 < len(sides["val"]) < 530
    filtered(small_dataset, tmp_path / "val", where="source_row < 500", split=0.2, part="val")
    found = set(manifests(tmp_path / "val")["source_row"].to_pylist())
    assert found == {row for row in sides["val"] if row < 500}
    parent = read_dataset(tmp_path / "val").description.parent
    assert parent is not None
    assert parent.settings == {"where": "source_row < 500", "split": 0.2, "part": "val"}
    assert sum(parent.left_out.values()) + len(found) == 2160 and parent.left_out["split"] > 0


def with_copies(table: pa.Table) -> pa.Table:
    """A manifest of 270 pictures, each of which has its copies in every shard."""
    names = [hashlib.sha256(b"%d" % (row % 300)).hexdigest() for row in table["source_row"].to_pylist()]
    place = table.schema.get_field_index("sha256")
    return table.set_column(place, table.schema.field(place), pa.array(names))


def test_copies_of_a_picture_fall_on_one_side_also_of_derived_datasets(
    small_dataset: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(small_dataset, tmp_path / "old")
    for shard in read_index(old).shards:
        change_manifest(old, with_copies, shard.name)
    filtered(old, tmp_path / "odd", where="source_row % 2 = 1")
    dedup(old, DedupConfig(), out=tmp_path / "single", hash_folder=hash_folder)
    sides = {}
    for name, samples_of in (("old", 2160), ("odd", 1200), ("single", 270)):
        made = filtered(tmp_path / name, tmp_path / f"{name}-parts", split=0.2)
        assert made.samples == samples_of
        train, val = (
            set(manifests(tmp_path / f"{name}-parts" / part)["sha256"].to_pylist())
            for part in ("train", "val")
        )
        assert train and val and not train & val
        sides[name] = train, val
    assert sides["single"] == sides["old"]
    assert all(some < all_of for some, all_of in zip(sides["odd"], sides["old"], strict=True))


def test_samples_without_hashes_as_a_repair_makes_them_are_left_out_on_demand(
    small_dataset: Path, tmp_path: Path
) -> None:
    dataset = shutil.copytree(small_dataset, tmp_path / "old")
    (dataset / "000001.parquet").unlink()
    assert repair(dataset).unknown == 1000
    remedy = "`clipkit shards filter --where '{} is not null'` leaves out those without"
    with pytest.raises(DatasetError, match=r"old: .* none in 1,000 of 2,160; " + remedy.format("sha256")):
        filtered(dataset, tmp_path / "new", split=0.2)
    with pytest.raises(DatasetError, match=r"000001\.tar: .* found none for some; " + remedy.format("dhash")):
        dedup(dataset, DedupConfig(near=2), hash_folder=hash_folder)
    filtered(dataset, tmp_path / "new", where="sha256 is not null", split=0.2)
    filtered(small_dataset, tmp_path / "whole", split=0.2)
    sides = {
        each: set(manifests(tmp_path / each / "val")["source_row"].to_pylist()) for each in ("new", "whole")
    }
    lost = set(pq.read_table(small_dataset / "000001.parquet")["source_row"].to_pylist())
    assert sides["new"] == sides["whole"] - lost and sides["whole"] & lost


def test_what_chooses_nothing_leaves_nothing(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of 64 remains \(where 64\)"):
        filtered(tiny_dataset, tmp_path / "new", where="width > 10000")
    with pytest.raises(ConfigError, match=r"val: expected samples .* \(split 64\); .* give a --split"):
        filtered(tiny_dataset, tmp_path / "new", split=1e-9)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", [{}, {"part": "val"}, {"split": 0.0}, {"split": "100%"}, {"split": 0.1, "part": "test"}]
)
def test_settings_that_say_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        FilterConfig(**options)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def break_shards(directory: Path) -> None:
    """A bit of a picture, a tar that is gone, a manifest that was cut off."""
    flip(directory / "000000.tar", 5000)
    (directory / "000001.tar").unlink()
    os.truncate(directory / "000002.parquet", 1000)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("000000.tar", r"000000\.tar: expected the SHA-256 .* --skip-broken"),
        ("000001.tar", r"000001\.tar: the index lists this file, but it is missing"),
        ("000002.parquet", r"000002\.parquet: expected the SHA-256"),
    ],
)
def test_a_broken_shard_is_not_copied(small_dataset: Path, tmp_path: Path, name: str, message: str) -> None:
    shutil.copytree(small_dataset, tmp_path / "old")
    break_shards(tmp_path / "old")
    for whole in {"000000.tar", "000001.tar", "000002.parquet"} - {name}:
        shutil.copyfile(small_dataset / whole, tmp_path / "old" / whole)
    with pytest.raises(DatasetError, match=message):
        filtered(tmp_path / "old", tmp_path / "new", where="true")
    with pytest.raises(DatasetError):
        ShardSet(tmp_path / "new")
    shutil.copyfile(small_dataset / name, tmp_path / "old" / name)
    filtered(tmp_path / "old", tmp_path / "new", where="true")
    assert manifests(tmp_path / "new").equals(manifests(small_dataset))


def test_broken_shards_are_left_out_on_demand_and_named(write_dataset: WriteDataset, tmp_path: Path) -> None:
    whole = write_dataset(tmp_path / "whole", 3500, 700)
    shutil.copytree(whole, tmp_path / "old")
    break_shards(tmp_path / "old")
    result = filtered(tmp_path / "old", tmp_path / "new", where="source_row <> 3100", skip_broken=True)
    assert list(result.lost) == ["000000.tar", "000001.tar", "000002.tar"]
    assert "missing" in result.lost["000001.tar"] and "000002.parquet" in result.lost["000002.tar"]
    assert "000001.tar" in result.lines()
    assert result.written[0].left_out == {"broken": 2001, "where": 1, "split": 0}
    flipped = sample_at(whole, 0, 5000)
    assert f"left out 1 of 1,000 samples: {flipped:09}" in result.lost["000000.tar"]
    assert samples(tmp_path / "new") == [
        each
        for row, each in enumerate(samples(whole))
        if row not in (flipped, 3100) and not 1000 <= row < 3000
    ]
    parent = read_dataset(tmp_path / "new").description.parent
    assert parent is not None
    assert parent.lost == {"000000.tar": 1, "000001.tar": 1000, "000002.tar": 1000}
    assert verify(tmp_path / "new", decode=True).ok


def sample_at(directory: Path, shard: int, place: int) -> int:
    """The row of the sample whose picture has that byte of the tar."""
    manifest = pq.read_table(directory / f"{shard:06}.parquet")
    starts, sizes = (manifest[name].to_numpy().astype(int) for name in ("image_offset", "image_bytes"))
    (row,) = np.flatnonzero((starts <= place) & (place < starts + sizes))
    return int(row)


def test_of_a_damaged_tar_all_whole_samples_are_copied(small_dataset: Path, tmp_path: Path) -> None:
    """A bit in a header, in a caption, in a picture; a tar cut off; one of manifests without checksums."""
    old = shutil.copytree(small_dataset, tmp_path / "old")
    manifest = pq.read_table(old / "000000.parquet")
    flip(old / "000000.tar", manifest["image_offset"][3].as_py() - 512)
    flip(old / "000000.tar", manifest["caption_offset"][5].as_py())
    flip(old / "000000.tar", manifest["image_offset"][7].as_py() + 9)
    manifest = pq.read_table(old / "000001.parquet")
    os.truncate(old / "000001.tar", manifest["caption_offset"][600].as_py())
    config = FilterConfig(skip_broken=True, where="caption is not null", split=0.4)
    result = filter_dataset(old, tmp_path / "new", config)
    for each in result.written:
        assert each.left_out["broken"] == 402
        assert verify(Path(each.out), decode=True).ok
    expected = samples(small_dataset)
    kept = [row for row in range(len(expected)) if row not in (5, 7) and not 1600 <= row < 2000]
    found = samples(tmp_path / "new" / "train") + samples(tmp_path / "new" / "val")
    assert sorted(found) == sorted(expected[row] for row in kept)
    assert "left out 2 of 1,000 samples: 000000005, 000000007" in result.lost["000000.tar"]
    assert "left out 400 of 1,000 samples: 000001600, " in result.lost["000001.tar"]


def test_a_damaged_tar_that_changes_again_is_not_copied(small_dataset: Path, tmp_path: Path) -> None:
    old = shutil.copytree(small_dataset, tmp_path / "old")
    flip(old / "000000.tar", 5000)
    original = Original(old)
    assert original.whole_samples(original.shards[0]).sum() == 999
    with original.tar(original.shards[0]):
        flip(old / "000000.tar", 6000)
    with (
        pytest.raises(DatasetError, match=r"000000\.tar: expected the SHA-256"),
        original.tar(original.shards[0]),
    ):
        pass


def test_without_checksums_a_damaged_shard_is_left_out_whole(
    write_dataset: WriteDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipkit.shards.writing.with_checksums", lambda manifest, checksums: manifest)
    old = write_dataset(tmp_path / "old", 1100, 700)
    flip(old / "000000.tar", 5000)
    result = filtered(old, tmp_path / "new", skip_broken=True)
    assert result.written[0].left_out["broken"] == 1000
    assert result.lost["000000.tar"].endswith("found another; left out 1,000 of 1,000 samples")


@pytest.mark.parametrize("name", ["000001.tar", "000001.parquet"])
def test_what_may_not_be_opened_is_not_taken_for_broken(
    small_dataset: Path, tmp_path: Path, name: str
) -> None:
    dataset = shutil.copytree(small_dataset, tmp_path / "old")
    (dataset / name).unlink()
    (dataset / name).symlink_to(name)  # fails to open for anybody, as a file without permission does for most
    with pytest.raises(OSError, match="symbolic links"):
        filtered(dataset, tmp_path / "new", skip_broken=True)
    assert not (tmp_path / "new").exists()


def test_hostile_manifests_are_refused(small_dataset: Path, tmp_path: Path) -> None:
    """Whoever makes a dataset can make its hashes too."""
    hostile: dict[str, Any] = {
        "ext": "../../x",
        "image_offset": -1,
        "image_bytes": 2**31 - 1,
        "caption_offset": 2**62,
        "caption": None,
    }
    for name, value in hostile.items():
        directory = tmp_path / name
        shutil.copytree(small_dataset, directory)
        index = read_index(directory)
        path = directory / "000000.parquet"
        table = pq.read_table(path)
        column = table[name].to_pylist()
        column[3] = value
        place = table.schema.get_field_index(name)
        pq.write_table(
            table.set_column(
                place, table.schema.field(name), pa.array(column, table.schema.field(name).type)
            ),
            path,
        )
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        index.entries[0] = index.entries[0]._replace(manifest_sha256=digest)
        index.write(directory)
        with pytest.raises(DatasetError, match="impossible"):
            filtered(directory, tmp_path / "new", where="true")
        shutil.rmtree(tmp_path / "new")


def test_a_target_that_is_something_else_is_refused(
    small_dataset: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    for out in (small_dataset, small_dataset / "parts", small_dataset / "failures" / "x"):
        with pytest.raises(DatasetError, match="a directory beside the original"):
            filtered(small_dataset, out, where="true")
    shutil.copytree(tiny_dataset, tmp_path / "ingested")
    with pytest.raises(DatasetError, match="made otherwise"):
        filtered(small_dataset, tmp_path / "ingested", where="true")
    filtered(small_dataset, tmp_path / "new", where="width > 1")
    before = contents(tmp_path / "new")
    with pytest.raises(DatasetError, match=r"settings.where was 'width > 1', now 'width > 2'"):
        filtered(small_dataset, tmp_path / "new", where="width > 2")
    with pytest.raises(DatasetError, match="two datasets"):
        filtered(small_dataset, tmp_path / "new", split=0.1)
    description = read_dataset(small_dataset).description
    with pytest.raises(DatasetError, match="parent was"), open_for_writing(tmp_path / "new", description):
        pass  # an ingest would append to it
    assert filtered(small_dataset, tmp_path / "new", where="width > 1").written[0].was_complete
    assert contents(tmp_path / "new") == before


def test_a_finished_one_that_has_lost_a_shard_is_not_called_finished(
    small_dataset: Path, tmp_path: Path
) -> None:
    filtered(small_dataset, tmp_path / "new", where="true")
    (tmp_path / "new" / "000001.tar").unlink()
    with pytest.raises(DatasetError, match=r"000001.tar: .* missing"):
        filtered(small_dataset, tmp_path / "new", where="true")


def test_an_unfinished_original_is_refused(small_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(small_dataset, tmp_path / "old")
    description = json.loads((tmp_path / "old" / "dataset.json").read_text()) | {"totals": None}
    (tmp_path / "old" / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(DatasetError, match="interrupted"):
        filtered(tmp_path / "old", tmp_path / "new", where="true")


def test_the_command(small_dataset: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "clipkit", "shards", "filter", str(small_dataset), "--json"]
    made = subprocess.run(
        [*words, "--where", "source_row < 300", "--split", "10%", "--out", str(tmp_path / "new")],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(made.stdout)
    assert [Path(each["out"]).name for each in result["written"]] == ["train", "val"]
    assert sum(each["samples"] for each in result["written"]) == 270
    bad = subprocess.run(
        [*words, "--where", "widht > 3", "--out", str(tmp_path / "bad")], capture_output=True, text=True
    )
    assert bad.returncode == 1 and bad.stdout == "" and len(bad.stderr.splitlines()) == 1
    assert "key, url, caption, source" in bad.stderr and not (tmp_path / "bad").exists()
    usage = subprocess.run([*words, "--out", str(tmp_path / "bad")], capture_output=True, text=True)
    assert usage.returncode == 2 and "--where" in usage.stderr
