"""Writing shards: samples with their pictures become a tar and its manifest; the index is the commit."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from clipkit.atomic import PICTURES_BUFFER, TEMPORARIES, replaced, write_json
from clipkit.shards.checksums import checksum, with_checksums
from clipkit.shards.failure_files import FAILURES
from clipkit.shards.format import HEADER_BYTES, sample_key, shard_name, tar_end, tar_member
from clipkit.shards.index import Index, IndexEntry
from clipkit.shards.parquet import write_hashed
from clipkit.shards.schemas import manifest_schema

_SHARDS = 6 * "[0-9]" + ".tar"


def write_shard(directory: Path, number: int, samples: pa.Table, images: Iterable[bytes]) -> IndexEntry:
    """Write shard `number` and its manifest; they exist once the index lists the returned entry.

    `samples` has the manifest's columns, kept ones too, in the tar's order; keys and offsets are made here,
    and other columns are left out. `images` are the pictures' bytes. Raises OSError as the file system does.
    """
    samples = samples.combine_chunks()
    keys = [sample_key(number, row) for row in range(len(samples))]
    extensions, captions = samples["ext"].to_pylist(), samples["caption"].to_pylist()
    path = directory / f"{shard_name(number)}.tar"
    digest = hashlib.sha256()
    size = 0
    content_offsets: list[tuple[int, int]] = []
    checksums: list[int] = []
    with replaced(path) as temporary, temporary.open("wb", PICTURES_BUFFER) as tar:
        for key, ext, caption, image in zip(keys, extensions, captions, images, strict=True):
            picture, text = tar_member(f"{key}.{ext}", image), tar_member(f"{key}.txt", caption.encode())
            content_offsets.append((size + HEADER_BYTES, size + len(picture) + HEADER_BYTES))
            checksums.append(checksum(image))
            sample = picture + text
            digest.update(sample)
            tar.write(sample)
            size += len(sample)
        end = tar_end(size)
        digest.update(end)
        tar.write(end)
    manifest = with_checksums(_manifest(samples, keys, content_offsets), checksums)
    manifest_sha256 = write_hashed(path.with_suffix(".parquet"), manifest)
    return IndexEntry("shard", path.name, len(keys), size + len(end), digest.hexdigest(), manifest_sha256)


def write_sizes(directory: Path, index: Index) -> None:
    """Write `sizes.json`, which OpenCLIP reads."""
    write_json(directory / "sizes.json", {shard.name: shard.samples for shard in index.shards})


def discard_unlisted(directory: Path, index: Index) -> None:
    """Remove what a kill left: temporary files, and shards and failure files that the index does not list."""
    for pattern in (TEMPORARIES, f"*/{TEMPORARIES}", f"*/*/{TEMPORARIES}"):
        for path in directory.glob(pattern):
            path.unlink()
    listed = {entry.name for entry in index.entries}
    for path in (*directory.glob(_SHARDS), *directory.glob(f"{FAILURES}/*.parquet")):
        if path.relative_to(directory).as_posix() not in listed:
            path.unlink()
            if path.suffix == ".tar":
                path.with_suffix(".parquet").unlink(missing_ok=True)


def _manifest(samples: pa.Table, keys: list[str], content_offsets: list[tuple[int, int]]) -> pa.Table:
    image_offsets, caption_offsets = zip(*content_offsets, strict=True)
    columns = {name: samples[name] for name in samples.column_names}
    columns |= {"key": keys, "image_offset": image_offsets, "caption_offset": caption_offsets}
    schema = manifest_schema(samples.schema)
    return pa.table([columns[name] for name in schema.names], schema=schema)
