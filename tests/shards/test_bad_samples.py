"""Damaged pictures and captions in the stream: named, counted, replaced alike, and at last too many."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from clipkit.errors import DatasetError
from clipkit.model.preprocess import TrainTransform
from clipkit.model.tokenizer import Tokenizer
from clipkit.shards.bad_samples import MAX_BAD, Bad, BadCount
from clipkit.shards.loader import Batch, batches
from clipkit.shards.shard_set import ShardSet

BROKEN = {(0, 5): "image", (1, 7): "caption", (2, 11): "image"}


def overwrite(directory: Path, shard: int, row: int, member: str) -> None:
    """Put bytes that are no JPEG in place of a picture, or no UTF-8 in place of a caption."""
    place = pq.read_table(directory / f"{shard:06d}.parquet").to_pylist()[row]
    with (directory / f"{shard:06d}.tar").open("r+b") as tar:
        tar.seek(place[f"{member}_offset"])
        tar.write(b"\xfe" * place[f"{member}_bytes"])


@pytest.fixture
def damaged(small_dataset: Path, tmp_path: Path) -> Path:
    directory = shutil.copytree(small_dataset, tmp_path / "dataset")
    for (shard, row), member in BROKEN.items():
        overwrite(directory, shard, row, member)
    return directory


def read(
    directory: Path, say: Callable[[str], object] | None = None, max_bad: float = MAX_BAD, **settings: Any
) -> list[Batch]:
    settings = {"batch_size": 120, "seed": 5, "stop": 2160, **settings}
    if say is not None:
        settings["told"] = BadCount(max_bad, say).add
    return list(batches(ShardSet(directory), transform=TrainTransform(16), tokenize=Tokenizer(), **settings))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_each_is_named_with_its_shard_and_key(
    damaged: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    assert len(read(damaged, workers=workers, say=said.append)) == 18
    assert len(said) == len(BROKEN)
    for (shard, row), member in BROKEN.items():
        (line,) = (each for each in said if f"{shard:06d}.tar: sample {1000 * shard + row:09d}: " in each)
        assert ("its picture cannot be decoded: not a picture" in line) == (member == "image")
        assert ("its caption is not UTF-8" in line) == (member == "caption")
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        read(damaged)
    assert [record.getMessage() for record in caplog.records] == said


def test_only_their_places_change_and_alike_for_all_ranks_and_workers(
    damaged: Path, small_dataset: Path
) -> None:
    whole, reference = read(small_dataset), read(damaged, say=len)
    changed = 0
    for expected, found in zip(whole, reference, strict=True):
        assert torch.equal(expected.positions_B, found.positions_B)
        same = (expected.images_BCHW == found.images_BCHW).flatten(1).all(1)
        assert torch.equal(same, (expected.tokens_BL == found.tokens_BL).all(1))
        changed += int((~same).sum())
    assert changed == len(BROKEN)
    for world_size, workers in ((2, 0), (3, 1)):
        ranks = [
            read(damaged, rank=rank, world_size=world_size, workers=workers, say=len)
            for rank in range(world_size)
        ]
        for expected, *shares in zip(reference, *ranks, strict=True):
            for one, parts in zip(expected, zip(*shares, strict=True), strict=True):
                assert torch.equal(one, torch.cat(parts))


def test_more_than_a_few_end_the_stream_with_their_list(damaged: Path) -> None:
    for row in range(20, 28):
        overwrite(damaged, 1, row, "image")
    with pytest.raises(
        DatasetError, match=r"11 of the .* more than the 0\.10% allowed.*shards verify"
    ) as raised:
        read(damaged, say=len)
    assert str(raised.value).count("cannot be decoded") + str(raised.value).count("not UTF-8") == 11
    assert len(read(damaged, say=len, max_bad=0.01)) == 18


@pytest.mark.parametrize(
    ("seen", "allowed"), [(1, 10), (10_000, 10), (20_000, 20), (20_999, 20), (10**6, 1000)]
)
def test_one_in_a_thousand_is_allowed_by_default_and_ten_in_any_case(seen: int, allowed: int) -> None:
    bad = Bad()
    count = BadCount(say=len, bad=bad)
    count.add(["bad"] * allowed, seen)
    count.add([], seen)
    with pytest.raises(DatasetError, match=rf"{allowed + 1} of the {seen:,} samples .* the 0\.10% allowed"):
        count.add(["bad"], seen)
    assert bad.count == allowed + 1


def test_none_is_allowed_if_none_is_asked_for(damaged: Path) -> None:
    with pytest.raises(DatasetError, match=r"1 of the .* samples read so far cannot be read"):
        read(damaged, say=len, max_bad=0)


def test_a_dataset_without_a_sound_picture_ends_at_once(tiny_dataset: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    for row in range(64):
        overwrite(directory, 0, row, "image")
    with pytest.raises(DatasetError, match=r"sample 0000000\d\d: its picture .*; nor can any of 19 others"):
        read(directory, batch_size=8, stop=64, say=len, max_bad=1.0)


def test_a_shard_cut_off_or_gone_during_the_run_is_an_error_of_its_own(
    small_dataset: Path, tmp_path: Path
) -> None:
    directory = shutil.copytree(small_dataset, tmp_path / "dataset")
    shard_set = ShardSet(directory)
    assert shard_set.read(0, 0).image
    for name in ("000000.tar", "000001.tar"):
        with (directory / name).open("r+b") as tar:
            tar.truncate(40_000)
    (directory / "000002.tar").unlink()
    with pytest.raises(DatasetError, match=r"000001\.tar: expected \d+ bytes as the index says, found 40000"):
        shard_set.read(1, 0)
    with pytest.raises(DatasetError, match=r"000000\.tar: expected \d+ bytes at \d+, found 0"):
        shard_set.read(0, 900)
    with pytest.raises(DatasetError, match=r"000002\.tar: cannot be opened \(No such file"):
        shard_set.read(2, 0)


def test_a_shard_that_grows_during_the_run_is_read_or_told(small_dataset: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(small_dataset, tmp_path / "dataset")
    shard_set = ShardSet(directory)
    expected = shard_set.read(0, 7), shard_set.read(0, 999)
    for name in ("000000.tar", "000001.tar"):
        with (directory / name).open("ab") as tar:
            tar.write(b"more")
    assert (shard_set.read(0, 7), shard_set.read(0, 999)) == expected
    with pytest.raises(DatasetError, match=r"000001\.tar: expected \d+ bytes as the index says, found \d+"):
        shard_set.read(1, 0)
