"""Dataset directories as bytes, to be compared."""

from pathlib import Path

from clipkit.shards.sample_set import SampleSet
from clipkit.shards.shard_set import Sample


def contents(directory: Path) -> dict[str, bytes]:
    """The files of a dataset by name; not the report, which bears its folder's name."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "report.html")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def everything(shard_set: SampleSet) -> list[Sample]:
    """All samples in the shards' order."""
    sizes = enumerate(shard_set.sizes.tolist())
    return [shard_set.read(shard, row) for shard, samples in sizes for row in range(samples)]
