import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipkit.errors import ClipkitError, ConfigError, DatasetError
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.folder_hashes import hash_folder
from clipkit.ingest.images import Picture, process
from clipkit.progress import Progress
from clipkit.shards.dataset import DatasetDescription, Pass, Totals, open_for_writing, read_dataset
from clipkit.shards.dedup import DedupConfig, DedupResult, dedup
from clipkit.shards.origin import made_from
from clipkit.shards.packing import Packer
from clipkit.shards.parts import PartWriter, make_parts_folder
from clipkit.shards.resemblance import Pictures, against, within
from tests.serving import encoded, photo

CONFIG = IngestConfig(image_size=64, keep_original=True)


def write(directory: Path, pictures: list[bytes]) -> Path:
    """A dataset of these pictures, as ingest describes them."""
    description = DatasetDescription(sources=(), image=CONFIG.image_settings)
    with open_for_writing(directory, description) as dataset:
        dataset.begin(Pass(kind="list", records=len(pictures)))
        with PartWriter(make_parts_folder(directory, 0), 0) as part:
            for row, data in enumerate(pictures):
                made = process(data, CONFIG)
                assert isinstance(made, Picture)
                names = [name for name in Picture.__slots__ if name != "content"]
                columns = {name: getattr(made, name) for name in names}
                columns |= {"source": "list", "source_row": row, "url": f"http://x/{row}"}
                part.success(columns | {"caption": f"number {row}"}, data)
        shards = len(Packer(directory).finish(1).shards)
        totals = Totals(records=len(pictures), samples=len(pictures), failures=0, shards=shards)
        dataset.finish(totals)
    return directory


def found(directory: Path, near: int | None = None, **options: Any) -> DedupResult:
    return dedup(directory, DedupConfig(near=near), hash_folder=hash_folder, **options)


def rows(directory: Path) -> list[int]:
    return pq.read_table(directory / "000000.parquet")["source_row"].to_pylist()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0–9 differ; 10 and 11 are 3's bytes; 12 is 5 larger, 13 is 5 smaller and worse; then white ones."""
    pictures = [encoded(photo(120, 90, seed)) for seed in range(10)]
    pictures += [pictures[3], pictures[3], encoded(photo(240, 180, 5))]
    pictures += [encoded(photo(80, 60, 5), quality=60)]
    pictures += [encoded(Image.new("RGB", (50 + side, 50), "white")) for side in range(5)]
    return write(tmp_path_factory.mktemp("twice") / "old", pictures)


def test_equal_bytes_are_kept_once(twice: Path, tmp_path: Path) -> None:
    result = found(twice, out=tmp_path / "new")
    assert (result.samples, result.exact, result.near, result.groups, result.largest) == (19, 2, 0, 1, 2)
    assert rows(tmp_path / "new") == [row for row in range(19) if row not in {10, 11}]
    parent = read_dataset(tmp_path / "new").description.parent
    assert parent is not None and parent.left_out == {"exact": 2, "near": 0}
    assert (parent.command, parent.samples) == ("dedup", 19)


def test_of_near_equal_ones_the_largest_is_kept_and_white_ones_are_not_alike(
    twice: Path, tmp_path: Path
) -> None:
    result = found(twice, 4, out=tmp_path / "new", listed=tmp_path / "list.parquet")
    assert (result.exact, result.near, result.groups, result.flat) == (2, 2, 2, 5)
    assert rows(tmp_path / "new") == [*range(5), *range(6, 10), 12, *range(14, 19)]
    listed = pq.read_table(tmp_path / "list.parquet").to_pylist()
    keys = [(int(each["key"]), int(each["like"]), each["kind"]) for each in listed]
    assert keys == [(5, 12, "near"), (10, 3, "exact"), (11, 3, "exact"), (13, 12, "near")]
    assert all(each["distance"] <= 4 and each["of"] == "old" for each in listed)
    assert (listed[0]["url"], listed[0]["caption"]) == ("http://x/5", "number 5")
    assert "000000012" in result.lines()


def test_what_is_in_another_dataset_or_folder_is_left_out_and_nothing_else(
    twice: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "val" / "n01440764"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(encoded(photo(500, 375, 7)))
    (folder / "b.png").write_bytes(encoded(photo(120, 90, 8), "PNG"))
    (folder / "white.png").write_bytes(encoded(Image.new("RGB", (99, 50), "white"), "PNG"))
    (folder / "README").write_text("no picture")
    other = write(tmp_path / "other", [encoded(photo(120, 90, seed)) for seed in (3, 77)])
    result = found(twice, 4, out=tmp_path / "new", others=[other, tmp_path / "val"])
    assert (result.exact, result.near, result.groups) == (3, 2, 3)
    assert rows(tmp_path / "new") == [0, 1, 2, 4, 5, 6, 9, *range(12, 19)]
    likes = {(int(each.key), each.of, each.like) for each in result.examples}
    assert {(3, "other", "000000000"), (7, "val", "n01440764/a.jpg")} <= likes
    parent = read_dataset(tmp_path / "new").description.parent
    assert parent is not None
    assert [each["name"] for each in parent.settings["against"]] == ["other", "val"]
    assert made_from(parent) == "made from old by dedup: near 4, against other and val"
    assert found(twice, others=[tmp_path / "val"]).exact == 0


def test_nothing_is_written_without_out_and_no_other_file_is_replaced(twice: Path, tmp_path: Path) -> None:
    assert found(twice, 4).written is None
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="thesis"):
        found(twice, listed=tmp_path / "thesis.txt")
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ConfigError, match="other"):
        found(twice, listed=tmp_path / "other.parquet")
    for _ in range(2):
        found(twice, listed=tmp_path / "list.parquet")
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.txt", "other.parquet", "list.parquet"}
    with pytest.raises(ConfigError, match="none of 19 remains"):
        found(twice, others=[shutil.copytree(twice, tmp_path / "same")], out=tmp_path / "new")


def test_what_cannot_be_is_told_before_anything_is_read(twice: Path, tmp_path: Path) -> None:
    def unread(title: str, total: int | None, unit: str) -> Progress:
        raise AssertionError(f"{title} has begun")

    def refused(message: str, **options: Any) -> None:
        with pytest.raises((ConfigError, DatasetError), match=message):
            dedup(twice, DedupConfig(), hash_folder=hash_folder, progress=unread, **options)

    refused("found the same one", others=[twice.parent / "old" / ".." / "old"])
    refused("found neither", others=[tmp_path / "absent"])
    refused("expected a folder to write into", listed=tmp_path / "absent" / "list.parquet")
    refused("expected a place outside of datasets", listed=twice / "list.parquet")
    refused(
        "expected a place outside of datasets", listed=tmp_path / "new" / "list.parquet", out=tmp_path / "new"
    )
    refused("a directory beside the original", out=twice)
    (tmp_path / "thesis.txt").write_text("mine")
    refused("found 'thesis.txt'", out=tmp_path)


@pytest.mark.parametrize("name", ["absent", "empty", "words"])
def test_a_set_without_pictures_is_refused(twice: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("a")
    with pytest.raises(ClipkitError, match=f"{name}: expected"):
        found(twice, others=[tmp_path / name])


def test_the_command(twice: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "clipkit", "shards", "dedup", str(twice), "--json"]
    made = subprocess.run(
        [*words, "--near", "4", "--out", str(tmp_path / "new")], capture_output=True, text=True, check=True
    )
    result = json.loads(made.stdout)
    assert (result["exact"], result["near"], result["written"]["samples"]) == (2, 2, 15)
    usage = subprocess.run([*words, "--near", "9"], capture_output=True, text=True, check=False)
    assert usage.returncode == 2 and "--near" in usage.stderr


def pictures(seed: int, count: int) -> Pictures:
    """Few different digests, hashes near each other, some flat, and sizes."""
    draws = np.random.default_rng(seed)
    words = draws.integers(0, max(1, count // 2), count).astype(np.uint64)
    hashes = draws.integers(0, 2**64, 6, dtype=np.uint64)[draws.integers(0, 6, count)]
    for _ in range(4):
        hashes ^= np.uint64(1) << draws.integers(0, 64, count, dtype=np.uint64)
    hashes[draws.random(count) < 0.2] &= np.uint64(7)
    hashes = hashes[words.astype(np.int64)]  # the same bytes have the same hash and size
    pixels = draws.integers(1, 4, count)[words.astype(np.int64)]
    sha256 = np.stack([words % np.uint64(3), words], axis=1)
    return Pictures("x", "f", sha256, hashes, pixels, str)


def flat(value: int) -> bool:
    return not 8 <= value.bit_count() <= 56


def brute(one: Pictures, near: int | None) -> list[int]:
    """As `within` is described, each with each."""
    digests, hashes = one.sha256.tolist(), one.dhash.tolist()
    leader = [digests.index(digest) for digest in digests]
    single = [place for place, first in enumerate(leader) if place == first]
    kept: list[int] = []
    if near is not None:
        for place in sorted(single, key=lambda place: (-one.pixels[place], place)):
            if flat(hashes[place]):
                continue
            like = [each for each in kept if (hashes[each] ^ hashes[place]).bit_count() <= near]
            if like:
                leader[place] = like[0]
            else:
                kept.append(place)
    return [leader[first] for first in leader]


@given(seed=st.integers(0, 2**32), count=st.integers(1, 80), near=st.sampled_from([None, 0, 1, 3, 8]))
@settings(max_examples=200, deadline=None)
def test_what_stays_is_what_comparing_all_finds(seed: int, count: int, near: int | None) -> None:
    one = pictures(seed, count)
    assert within(one, near).tolist() == brute(one, near)


@given(seed=st.integers(0, 2**32), count=st.integers(1, 80), near=st.sampled_from([None, 0, 3, 8]))
@settings(max_examples=200, deadline=None)
def test_what_is_in_another_set_is_what_comparing_all_finds(seed: int, count: int, near: int | None) -> None:
    one, other = pictures(seed, count), pictures(seed, count // 2 + 1)
    expected = []
    for digest, value in zip(one.sha256.tolist(), one.dhash.tolist(), strict=True):
        same = [place for place, each in enumerate(other.sha256.tolist()) if each == digest]
        like = [
            place
            for place, each in enumerate(other.dhash.tolist())
            if near is not None and (each ^ value).bit_count() <= near and not flat(each) and not flat(value)
        ]
        expected.append((same or like or [-1])[0])
    assert against(one, other, near).tolist() == expected


def test_a_manifest_without_hashes_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "old"
    description = DatasetDescription(sources=(), image={})
    digest = hashlib.sha256(b"x").hexdigest()
    with open_for_writing(directory, description) as dataset:
        dataset.begin(Pass(kind="list", records=1))
        with PartWriter(make_parts_folder(directory, 0), 0) as part:
            known = {"source": "s", "source_row": 0, "url": "u", "caption": "c", "ext": "jpg"}
            part.success(known | {"sha256": digest}, b"x")
        Packer(directory).finish(1)
        dataset.finish(Totals(records=1, samples=1, failures=0, shards=1))
    with pytest.raises(DatasetError, match="dhash"):
        found(directory)


def test_names_that_are_no_utf8(twice: Path, tmp_path: Path) -> None:
    def odd(name: str) -> Path:
        return tmp_path / os.fsdecode(name.encode("latin-1"))

    dataset = shutil.copytree(twice, odd("\xfft"))
    folder = odd("\xe9t\xe9")
    folder.mkdir()
    (folder / os.fsdecode(b"\xe4.jpg")).write_bytes(encoded(photo(120, 90, 4)))
    listed = odd("l\xff.parquet")
    for _ in range(2):
        result = found(dataset, others=[folder], out=tmp_path / "new", listed=listed)
    assert result.exact >= 1 and result.examples[0].like == "\ufffd.jpg"
    with listed.open("rb") as file:
        assert set(pq.read_table(file)["of"].to_pylist()) == {"\ufffdt\ufffd"}
    parent = read_dataset(tmp_path / "new").description.parent
    assert parent is not None and parent.name == "\ufffdt"
    with pytest.raises(DatasetError, match="expected a name in UTF-8"):
        found(dataset, out=odd("\xff"))
