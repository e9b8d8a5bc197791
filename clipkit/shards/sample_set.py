"""What a stream of samples needs to know of the data that it reads: shards of rows, wherever they lie."""

from collections.abc import Iterable
from typing import Protocol

from clipkit.shards.shard_files import Int64s
from clipkit.shards.shard_set import Sample


class SampleSet(Protocol):
    """Samples by shard and row; picklable. A ShardSet is one, and a CsvSet."""

    source: str

    @property
    def sizes(self) -> Int64s:
        """The shards' numbers of samples, int64."""

    @property
    def fingerprint(self) -> str:
        """A SHA-256 (hex) that another content does not have: the identity of the data."""

    @property
    def is_remote(self) -> bool:
        """Whether shards lie behind addresses, so that it pays to `prepare` them."""

    def __len__(self) -> int: ...

    def read(self, shard: int, row: int) -> Sample:
        """Return a sample. Raises SampleError if it alone cannot be read, DatasetError if more is wrong."""

    def key(self, shard: int, row: int) -> str:
        """Return a sample's key."""

    def place(self, shard: int) -> str:
        """Return where a shard lies, for messages."""

    def short_sides(self, shard: int) -> Int64s | None:
        """Return the shorter sides of a shard's pictures in pixels; None where that is not written down."""

    def prepare(self, shards: Iterable[int]) -> None:
        """Begin to copy what lies behind addresses of these shards; returns at once."""
