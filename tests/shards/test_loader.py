import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clipkit.errors import DatasetError
from clipkit.shards.index import read_index
from clipkit.shards.loader import Batch, batches
from clipkit.shards.mixture import Mixture
from clipkit.shards.parquet import write_hashed
from clipkit.shards.plan import ShardPlan, compact_permutation
from clipkit.shards.shard_files import SampleError
from clipkit.shards.shard_set import ShardSet
from clipkit.shards.summary import summarize
from tests.shards.functions import tokenize, transform


def read(shard_set: ShardSet | Mixture, **settings: Any) -> list[Batch]:
    return list(batches(shard_set, transform=transform, tokenize=tokenize, **settings))


def test_an_epoch_holds_each_sample_once(small_dataset: Path) -> None:
    shard_set = ShardSet(small_dataset)
    made = read(shard_set, batch_size=216, seed=3, stop=2160, streams=5, block=100)
    captions = torch.cat([batch.tokens_BL[:, 0] for batch in made])
    assert sorted(captions.tolist()) == [row for row in range(2400) if row % 10]
    assert captions.tolist() != sorted(captions.tolist())
    assert all(batch.images_BCHW.dtype == torch.uint8 for batch in made)


def test_batches_are_those_of_the_plan(small_dataset: Path) -> None:
    shard_set = ShardSet(small_dataset)
    plan = ShardPlan(shard_set.sizes, 3, 5, 100)
    for k, batch in enumerate(read(shard_set, batch_size=90, seed=3, stop=4400, streams=5, block=100)):
        positions = plan.positions(90 * k, 90 * (k + 1))
        assert batch.positions_B.tolist() == positions.tolist()
        shards, rows = plan.locate(positions)
        named = [
            int(shard_set.read(s, r).caption.rsplit(" ", 1)[1]) for s, r in zip(shards, rows, strict=True)
        ]
        assert batch.tokens_BL[:, 0].tolist() == named


@pytest.mark.parametrize(("world_size", "workers"), [(1, 2), (2, 0), (3, 1), (4, 3)])
def test_batches_do_not_depend_on_ranks_and_workers(
    small_dataset: Path, world_size: int, workers: int
) -> None:
    shard_set = ShardSet(small_dataset)
    settings = {"batch_size": 120, "seed": 5, "position": 1200, "stop": 3000}
    reference = read(shard_set, **settings)
    ranks = [
        read(shard_set, **settings, rank=rank, world_size=world_size, workers=workers)
        for rank in range(world_size)
    ]
    assert len(reference) == 15
    for k, shares in enumerate(zip(*ranks, strict=True)):
        for expected, parts in zip(reference[k], zip(*shares, strict=True), strict=True):
            assert torch.equal(expected, torch.cat(parts))


def test_a_stream_continues_at_any_position(small_dataset: Path) -> None:
    shard_set = ShardSet(small_dataset)
    whole = read(shard_set, batch_size=100, seed=1, stop=5000)
    rest = read(shard_set, batch_size=100, seed=1, position=3700, stop=5000)
    assert len(rest) == 13
    for expected, found in zip(whole[37:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_to_begin_costs_as_much_at_any_position(small_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch is read, and one block and the shards are shuffled, however much came before."""
    shuffled: list[int] = []
    made_of: list[tuple[int, int]] = []
    read_one = ShardSet.read

    def shuffle(length: int, *of: int) -> Any:
        shuffled.append(length)
        return compact_permutation(length, *of)

    def noted(self: ShardSet, shard: int, row: int) -> Any:
        made_of.append((shard, row))
        return read_one(self, shard, row)

    monkeypatch.setattr("clipkit.shards.plan.compact_permutation", shuffle)
    monkeypatch.setattr(ShardSet, "read", noted)
    for first in (0, 60 * 20, 60 * 10**12):
        shuffled.clear()
        made_of.clear()
        settings: dict[str, Any] = {
            "batch_size": 60,
            "streams": 3,
            "block": 100,
            "position": first,
            "seed": 1,
        }
        with closing(
            batches(ShardSet(small_dataset), transform=transform, tokenize=tokenize, **settings)
        ) as made:
            assert next(made).positions_B.min() == first
        assert len(set(made_of)) == len(made_of) == 60
        assert sorted(shuffled) == [3, 100, 100, 100]


def test_integers_may_be_those_of_numpy(small_dataset: Path) -> None:
    given = {"batch_size": 60, "position": 120, "seed": -3}
    (expected,) = read(ShardSet(small_dataset), **given, stop=180)
    (found,) = read(
        ShardSet(small_dataset), **{name: np.int64(each) for name, each in given.items()}, stop=180
    )
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_made_on_the_cpu_whatever_the_programs_default(small_dataset: Path, workers: int) -> None:
    with torch.device("meta"):
        (found,) = read(ShardSet(small_dataset), batch_size=60, workers=workers, stop=60)
    (expected,) = read(ShardSet(small_dataset), batch_size=60, stop=60)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((3, 2, 4), np.float32),
        torch.zeros(3, 2, 4),
        np.zeros((2, 4, 3), np.uint8),
        np.zeros((2, 4), np.uint8),
        np.zeros((3, 4), np.uint8),
        None,
    ],
)
def test_pixels_of_another_kind_are_refused_not_cut_to_bytes(small_dataset: Path, pixels: Any) -> None:
    made = batches(
        ShardSet(small_dataset), batch_size=4, transform=lambda image, key: pixels, tokenize=tokenize
    )
    with pytest.raises(TypeError, match=r"uint8 of shape \(3, H, W\), all of one size, found"):
        next(made)


def test_pictures_of_two_sizes_are_refused_not_spread_over_the_batch(small_dataset: Path) -> None:
    sizes = iter([(3, 8, 8), (3, 1, 8)])
    made = batches(
        ShardSet(small_dataset),
        batch_size=2,
        transform=lambda image, key: np.zeros(next(sizes), np.uint8),
        tokenize=tokenize,
    )
    with pytest.raises(TypeError, match=r"all of one size, found uint8 of shape \(3, 1, 8\)"):
        next(made)


def test_tokens_are_one_row_of_integers_for_each_caption(small_dataset: Path) -> None:
    def first(tokens: Any) -> Batch:
        return next(
            batches(
                ShardSet(small_dataset), batch_size=2, transform=transform, tokenize=lambda captions: tokens
            )
        )

    found = first(torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)).tokens_BL
    assert found.dtype == torch.int64 and found.tolist() == [[1, 2], [3, 4]]
    of_other_kinds: list[Any] = [np.zeros((1, 2), int), np.zeros((2, 2)), np.zeros(2, int), {"ids": []}]
    for wrong in of_other_kinds:
        with pytest.raises(TypeError, match="expected tokens of 2 captions to be as many rows of int64"):
            first(wrong)


def test_sizes_that_do_not_divide_are_refused(small_dataset: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 3 ranks"):
        read(ShardSet(small_dataset), batch_size=100, world_size=3)
    with pytest.raises(ValueError, match="divide position 150"):
        read(ShardSet(small_dataset), batch_size=100, position=150)
    with pytest.raises(ValueError, match="divide position -100"):
        read(ShardSet(small_dataset), batch_size=100, position=-100)
    with pytest.raises(ValueError, match="batch size 0"):
        read(ShardSet(small_dataset), batch_size=0)
    for rank in (-1, 4):
        with pytest.raises(ValueError, match=f"rank {rank} must be one of 0 … 3"):
            read(ShardSet(small_dataset), batch_size=100, rank=rank, world_size=4)


@pytest.fixture
def damaged(small_dataset: Path, tmp_path: Path) -> Iterator[Path]:
    yield shutil.copytree(small_dataset, tmp_path / "dataset")


def test_a_missing_or_cut_shard_is_an_error_before_the_first_batch(damaged: Path) -> None:
    with (damaged / "000002.tar").open("r+b") as tar:
        tar.truncate(5000)
    with pytest.raises(DatasetError, match=r"000002\.tar: expected \d+ bytes"):
        ShardSet(damaged)
    (damaged / "000002.tar").unlink()
    for opening in (ShardSet, summarize):
        with pytest.raises(DatasetError, match=r"000002\.tar: .*missing"):
            opening(damaged)


def test_an_ingest_that_has_not_finished_is_no_training_set(damaged: Path) -> None:
    description = json.loads((damaged / "dataset.json").read_text())
    (damaged / "dataset.json").write_text(json.dumps(description | {"totals": None}))
    with pytest.raises(DatasetError, match="found one that was interrupted"):
        ShardSet(damaged)
    assert summarize(damaged).lines().startswith("INGEST HAS NOT FINISHED")
    assert summarize(damaged).as_json()["finished"] is False


def with_caption_bytes(damaged: Path, shard: int, size: int) -> ShardSet:
    path = damaged / f"{shard:06d}.parquet"
    manifest = pq.read_table(path)
    sizes = pa.array([size] * len(manifest), pa.int32())
    place = manifest.column_names.index("caption_bytes")
    changed = write_hashed(path, manifest.set_column(place, "caption_bytes", sizes))
    index = read_index(damaged)
    index.entries[shard] = index.entries[shard]._replace(manifest_sha256=changed)
    index.write(damaged)
    return ShardSet(damaged)


def test_byte_ranges_beyond_the_shard_are_refused(damaged: Path) -> None:
    with pytest.raises(DatasetError, match="impossible ones"):
        with_caption_bytes(damaged, 2, 2**31 - 1).read(2, 0)


def test_a_caption_that_would_take_minutes_is_not_read(damaged: Path) -> None:
    with (damaged / "000000.tar").open("ab") as tar:
        tar.write(bytes(2_000_000))
    index = read_index(damaged)
    index.entries[0] = index.entries[0]._replace(bytes=index.entries[0].bytes + 2_000_000)
    index.write(damaged)
    with pytest.raises(SampleError, match="its caption has 1,500,000 bytes, over 1,048,576: leave it out"):
        with_caption_bytes(damaged, 0, 1_500_000).read(0, 0)
    assert ShardSet(damaged).read(1, 0).caption


def test_an_index_that_names_other_files_is_refused(damaged: Path) -> None:
    index = pq.read_table(damaged / "index.parquet")
    names = ["../../etc/passwd", *index["name"].to_pylist()[1:]]
    pq.write_table(index.set_column(1, "name", pa.array(names)), damaged / "index.parquet")
    with pytest.raises(DatasetError, match=r"expected files such as 000000.tar, .*found '../../etc/passwd'"):
        ShardSet(damaged)


@pytest.mark.parametrize("shard", [1, 2])
def test_a_manifest_of_another_shard_is_refused(damaged: Path, shard: int) -> None:
    """Also if that has as many samples: the pictures would be cut from wrong places, the captions too."""
    manifest = f"{shard:06d}.parquet"
    shutil.copy(damaged / "000000.parquet", damaged / manifest)
    with pytest.raises(DatasetError, match=rf"{manifest}: expected the shard's manifest, .* another file"):
        ShardSet(damaged).read(shard, 0)


def test_a_missing_manifest_is_an_error_before_the_first_batch(damaged: Path) -> None:
    (damaged / "000002.parquet").unlink()
    with pytest.raises(DatasetError, match=r"000002\.parquet: the index lists this shard, but it is missing"):
        ShardSet(damaged)


def without_memory(image: bytes, key: int) -> np.ndarray:
    raise MemoryError


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_that_is_used_up_is_one_line_and_no_broken_sample(small_dataset: Path, workers: int) -> None:
    stream = batches(
        ShardSet(small_dataset), batch_size=10, workers=workers, transform=without_memory, tokenize=tokenize
    )
    with pytest.raises(DatasetError, match="expected memory for a batch, found none left: make memory free"):
        next(stream)


def of_nothing(image: bytes, key: int) -> np.ndarray:
    return np.broadcast_to(np.uint8(0), (3, 30_000, 30_000))


def test_a_batch_larger_than_any_memory_is_one_line(small_dataset: Path) -> None:
    stream = batches(
        ShardSet(small_dataset), batch_size=100_000, transform=of_nothing, tokenize=tokenize
    )  # 270 TB: more than a process has addresses
    with pytest.raises(DatasetError, match="expected memory for a batch, found none left: make memory free"):
        next(stream)


def killed(image: bytes, key: int) -> np.ndarray:
    os.kill(os.getpid(), signal.SIGKILL)
    return transform(image, key)


def test_a_killed_worker_is_an_error_not_a_hang(small_dataset: Path) -> None:
    stream = batches(ShardSet(small_dataset), batch_size=10, workers=1, transform=killed, tokenize=tokenize)
    with pytest.raises(DatasetError, match=r"a loader process died, DataLoader worker .*fewer --workers"):
        next(stream)


def told(image: bytes, key: int) -> np.ndarray:
    return np.full((3, 2, 4), int(os.environ["TOLD"]), np.uint8)


def test_workers_have_the_environment_of_now(small_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server that they are forked from has an older one, without the keys of a bucket, say."""
    for number in (1, 2):
        monkeypatch.setenv("TOLD", str(number))
        (made,) = batches(
            ShardSet(small_dataset), batch_size=2, workers=1, stop=2, transform=told, tokenize=tokenize
        )
        assert (made.images_BCHW == number).all()
