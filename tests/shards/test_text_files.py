import bz2
import gzip
import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from clipkit.errors import SourceError
from clipkit.shards.text_files import MAX_RECORD_BYTES, count_lines, opened, read_records

CONTENT = b"".join(b"line %d\n" % number for number in range(20_000))
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: bytes(pa.compress(data, "zstd", asbytes=True)),
}


def test_an_endless_line_is_cut(tmp_path: Path) -> None:
    long = b"x" * (3 * MAX_RECORD_BYTES)
    records = list(read_records(io.BytesIO(long + b"\nnext\n" + long)))
    assert [len(record) for record in records] == [MAX_RECORD_BYTES, 4, MAX_RECORD_BYTES]


@pytest.mark.parametrize("ending", COMPRESS)
def test_compressed_files_are_streams_of_their_content(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"list.tsv{ending}"
    half = len(CONTENT) // 2
    padding = b"" if ending == ".zst" else bytes(100_000)
    path.write_bytes(COMPRESS[ending](CONTENT[:half]) + padding + COMPRESS[ending](CONTENT[half:]) + padding)
    with opened(path) as stream:
        assert list(read_records(stream)) == CONTENT.decode().split("\n")[:-1]
    assert count_lines(path) == 20_000


@pytest.mark.parametrize("ending", COMPRESS)
def test_damaged_compression_is_one_clear_error(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"list.tsv{ending}"
    whole = COMPRESS[ending](CONTENT)
    for content in (whole[:-20], b"no compressed file", whole + b"BZ" + whole, whole + whole[:-20]):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=f"list.tsv{ending}: .*cannot be read") as raised:
            count_lines(path)
        assert "\n" not in str(raised.value)
