from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit.errors import ConfigError, DatasetError
from clipkit.ingest.folder_hashes import hash_folder
from clipkit.locations import location
from clipkit.shards.dataset import read_dataset
from clipkit.shards.dedup import DedupConfig, dedup
from clipkit.shards.filter import FilterConfig, FilterResult, filter_dataset
from clipkit.shards.index import read_index
from clipkit.shards.verify import verify
from tests.serving import Server, answer


def rows(directory: Path) -> list[int]:
    """The source rows of a dataset's samples, in their order."""
    names = [shard.name.replace(".tar", ".parquet") for shard in read_index(directory).shards]
    return [row for name in names for row in pq.read_table(directory / name)["source_row"].to_pylist()]


def filtered(directory: Path, out: Path, **options: Any) -> FilterResult:
    return filter_dataset(directory, out, FilterConfig(**options))


def test_samples_are_kept_and_left_out_by_their_keys(small_dataset: Path, tmp_path: Path) -> None:
    keep, drop = tmp_path / "keep.csv", tmp_path / "drop.parquet"
    keep.write_bytes(b"\xef\xbb\xbfkey\r\n000002159\r\n\r\n7\r\n000001000\r\n000000999\r\n7\r\n")
    pq.write_table(pa.table({"key": ["000001000", "000000005"], "other": [1, 2]}), drop)
    every = rows(small_dataset)
    result = filtered(small_dataset, tmp_path / "out", keys=keep, without_keys=drop)
    assert rows(tmp_path / "out") == [every[7], every[999], every[2159]]
    assert result.written[0].left_out == {"broken": 0, "keys": 2157, "where": 0, "split": 0}
    assert "left out: keys" in result.lines() and verify(tmp_path / "out").ok
    parent = read_dataset(tmp_path / "out").description.parent
    assert parent is not None and {"keys", "without_keys"} < set(parent.settings)
    with pytest.raises(DatasetError, match="without_keys was"):  # another choice is another dataset
        filtered(small_dataset, tmp_path / "out", keys=keep)
    filtered(small_dataset, tmp_path / "rest", without_keys=keep, where="source_row > 1000")
    gone = {every[place] for place in (7, 999, 1000, 2159)}
    assert rows(tmp_path / "rest") == [row for row in every if row > 1000 and row not in gone]


def test_keys_behind_an_address(small_dataset: Path, tmp_path: Path, server: Server) -> None:
    address = location(server.add("/keys", answer(b"000000003\n")))
    filtered(small_dataset, tmp_path / "out", keys=address)
    assert rows(tmp_path / "out") == rows(small_dataset)[3:4]


def test_a_list_of_duplicates_leaves_out_the_same_as_dedup(small_dataset: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.parquet"
    dedup(small_dataset, DedupConfig(near=4), out=tmp_path / "one", listed=listed, hash_folder=hash_folder)
    filtered(small_dataset, tmp_path / "two", without_keys=listed)
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    assert len(rows(tmp_path / "one")) < len(rows(small_dataset))
    other = "found those of another dataset than .*one, where they mean other samples"
    with pytest.raises(ConfigError, match=other):  # though it has samples of these keys
        filtered(tmp_path / "one", tmp_path / "three", without_keys=listed)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "found none"),
        (b"\n\n", "found none"),
        (b"000000001\nkey\n", "'key' in line 2"),
        (b"0000000001", "'0000000001' in line 1"),
        (b"000000001.jpg", r"'000000001\.jpg' in line 1"),
        (b"-1", "'-1' in line 1"),
        ("٣".encode(), "in line 1"),
        (b"000000001\n000002160\n000009000", "2 of no sample of this dataset, the first is 000002160"),
        (b"PAR1 and no more", "Parquet that cannot be read"),
        (pa.table({"id": [1]}), "Parquet with the columns id"),
        (pa.table({"key": ["a"]}), "values of the column key that are no keys"),
        (pa.table({"key": [1, None]}), "1 nulls in the column key"),
        (pa.table({"key": [-1]}), "1 of no sample"),
        (None, "No such file"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_keys_of_the_dataset(
    small_dataset: Path, tmp_path: Path, content: bytes | pa.Table | None, found: str
) -> None:
    path = tmp_path / "keys"
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"--without-keys .*keys: expected keys.* {found}"):
        filtered(small_dataset, tmp_path / "out", without_keys=path)
    assert not (tmp_path / "out").exists()
