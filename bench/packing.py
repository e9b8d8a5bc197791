"""Packing parts into shards, beside webdataset's TarWriter writing the same samples into tars with a SHA-256.

    python bench/packing.py [--samples 8000] [--bytes 25000] [--runs 5]

Both read the same parts from disk; both sides' tars hold the same members. The sides take turns; medians and
the ratio of each pair are printed, and the throughput by CPU time: clipkit also waits for the disk, to which
it flushes each file.
"""

import argparse
import hashlib
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import webdataset

from clipkit.shards.packing import Packer
from clipkit.shards.parts import PartWriter, make_parts_folder, part_paths, parts_folder, read_part

CHUNK = 1000


def make_parts(parts: Path, samples: int, size: int) -> None:
    noise = random.Random(0)
    for chunk, first in enumerate(range(0, samples, CHUNK)):
        with PartWriter(parts, chunk) as part:
            for row in range(first, min(first + CHUNK, samples)):
                known = {
                    "source": "bench",
                    "source_row": row,
                    "url": f"http://example.com/{row}",
                    "ext": "jpg",
                }
                part.success(known | {"caption": f"a picture, number {row}"}, noise.randbytes(size))


def pack(directory: Path, chunks: int) -> None:
    packer = Packer(directory)
    for chunk in range(chunks):
        packer.add(chunk)
    packer.finish(chunks)


def write_tars(directory: Path, chunks: int) -> None:
    parts = parts_folder(directory, 0)
    for chunk in range(chunks):
        rows = read_part(parts, chunk, ["caption", "image_offset", "image_bytes"]).to_pylist()
        path = directory / f"{chunk:06d}.tar"
        with part_paths(parts, chunk)[0].open("rb") as part, webdataset.TarWriter(str(path)) as tar:
            for number, row in enumerate(rows):
                part.seek(row["image_offset"])
                key = f"{chunk * CHUNK + number:09d}"
                tar.write({"__key__": key, "jpg": part.read(row["image_bytes"]), "txt": row["caption"]})
        with path.open("rb") as written:
            hashlib.file_digest(written, "sha256")


class Seconds(NamedTuple):
    """How long one side took, and how much of it on a core."""

    wall: float
    cpu: float


def seconds(side: Callable[[Path, int], None], parts: Path, chunks: int) -> Seconds:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(parts, parts_folder(Path(folder), 0))
        start, busy = time.perf_counter(), time.process_time()
        side(Path(folder), chunks)
        return Seconds(time.perf_counter() - start, time.process_time() - busy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--bytes", type=int, default=25_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    chunks = -(-options.samples // CHUNK)
    with tempfile.TemporaryDirectory() as folder:
        parts = make_parts_folder(Path(folder), 0)
        make_parts(parts, options.samples, options.bytes)
        pairs = [
            (seconds(pack, parts, chunks), seconds(write_tars, parts, chunks)) for _ in range(options.runs)
        ]
    megabytes = options.samples * options.bytes / 1e6
    for name, times in zip(("clipkit Packer", "TarWriter + sha256"), zip(*pairs, strict=True), strict=True):
        wall, cpu = (statistics.median(each) for each in zip(*times, strict=True))
        print(
            f"{name:20} median {wall:.2f} s, {megabytes / wall:,.0f} MB/s, "
            f"{min(times).wall:.2f} to {max(times).wall:.2f} s; "
            f"CPU {cpu:.2f} s, {megabytes / cpu:,.0f} MB/s a core"
        )
    ratio = statistics.median(theirs.wall / ours.wall for ours, theirs in pairs)
    print(f"ratio of speeds      median {ratio:.2f}")


if __name__ == "__main__":
    main()
