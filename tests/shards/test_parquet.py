from pathlib import Path

import pytest

from clipkit.errors import DatasetError
from clipkit.shards.index import INDEX_FILE, read_index
from clipkit.shards.parquet import read_parquet


def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / INDEX_FILE
    with pytest.raises(
        DatasetError, match=r"expected a list, found: no such file; restore it, or run `clipkit"
    ):
        read_parquet(path, "a list")
    path.write_bytes(b"no Parquet")
    with pytest.raises(DatasetError, match=r"expected a list, found: .*; buy a new one"):
        read_parquet(path, "a list", remedy="buy a new one")
    with pytest.raises(
        DatasetError, match=r"expected a Parquet index, found: .*; restore it, or run `clipkit"
    ):
        read_index(tmp_path)
